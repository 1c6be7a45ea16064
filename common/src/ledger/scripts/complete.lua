-- Records a finished batch. Only the call that turns its bit on moves the counters.
-- KEYS: meta, done (one bit a batch), errors, rate (images by 10-second bucket).
-- ARGV: batch number, images ok, images failed, then pairs of error code and count.
-- Returns first (1 or 0), and 1 if the plan is at its end and every batch of it is done.
local BUCKET_SECONDS = 10
local BUCKETS_KEPT = 12
local meta = KEYS[1]
local first = redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 0
if first then
  local images = tonumber(ARGV[2]) + tonumber(ARGV[3])
  redis.call('HINCRBY', meta, 'done', 1)
  redis.call('HINCRBY', meta, 'ok', ARGV[2])
  redis.call('HINCRBY', meta, 'failed', ARGV[3])
  for i = 4, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1])
  end
  local time = redis.call('TIME')
  local seconds = tonumber(time[1])
  -- As text: a number of this size would become 1.7e+12 on its way.
  local ms = string.format('%d%03d', seconds, math.floor(tonumber(time[2]) / 1000))
  if redis.call('HSETNX', meta, 'first_ms', ms) == 1 then
    redis.call('HSET', meta, 'first_images', images)
  end
  redis.call('HSET', meta, 'last_ms', ms)
  local bucket = math.floor(seconds / BUCKET_SECONDS)
  redis.call('HINCRBY', KEYS[4], bucket, images)
  if redis.call('HLEN', KEYS[4]) > BUCKETS_KEPT then
    for _, old in ipairs(redis.call('HKEYS', KEYS[4])) do
      if tonumber(old) <= bucket - BUCKETS_KEPT then
        redis.call('HDEL', KEYS[4], old)
      end
    end
  end
end
local planned = tonumber(redis.call('HGET', meta, 'batches_planned') or '0')
local done = tonumber(redis.call('HGET', meta, 'done') or '0')
if redis.call('HGET', meta, 'plan_complete') and done >= planned then
  return {first and 1 or 0, 1}
end
return {first and 1 or 0, 0}
