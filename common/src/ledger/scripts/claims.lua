-- The oldest claims. KEYS: claims, claimers. ARGV: how many at most.
-- Returns a flat list of batch number, age in ms and worker.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local claims = {}
for i = 1, #found, 2 do
  local age = math.max(0, now - tonumber(found[i + 1]))
  table.insert(claims, {found[i], string.format('%.0f', age), redis.call('HGET', KEYS[2], found[i]) or ''})
end
return claims
