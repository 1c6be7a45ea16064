-- Everything about a job at one moment. KEYS: meta, errors, rate.
-- Returns the three hashes as flat lists, and the server's time in ms since 1970.
local time = redis.call('TIME')
local ms = string.format('%d%03d', tonumber(time[1]), math.floor(tonumber(time[2]) / 1000))
return {
  redis.call('HGETALL', KEYS[1]),
  redis.call('HGETALL', KEYS[2]),
  redis.call('HGETALL', KEYS[3]),
  ms,
}
