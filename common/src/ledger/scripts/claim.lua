-- Says who works on a batch, and since when (ms since 1970, by this server's clock).
-- KEYS: meta, done, claims, claimers. ARGV: batch number, worker, and the age in ms that an earlier claim must have
-- to be taken over; -1 claims whatever was before. Returns 1 if the claim is the caller's now.
if not redis.call('HGET', KEYS[1], 'open') then
  return 0
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local older_than = tonumber(ARGV[3])
if older_than >= 0 then
  local since = redis.call('ZSCORE', KEYS[3], ARGV[1])
  if not since or now - tonumber(since) < older_than or redis.call('GETBIT', KEYS[2], ARGV[1]) == 1 then
    return 0
  end
end
redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
return 1
