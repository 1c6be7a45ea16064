-- The workers heard last, with how long ago in ms; those heard too long ago are taken from the index.
-- KEYS: index. ARGV: how many at most, after how many ms a worker is forgotten.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[2])))
local found = redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local heard = {}
for i = 1, #found, 2 do
  table.insert(heard, {found[i], string.format('%.0f', math.max(0, now - tonumber(found[i + 1])))})
end
return heard
