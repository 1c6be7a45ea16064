-- Records a finished batch and ends its claim. Only the call that turns its bit on moves the counters.
-- KEYS: meta, done (one bit a batch), errors, rate (images by 10-second bucket), claims, claimers.
-- ARGV: batch number, images ok, images failed, number of codes, as many pairs of error code and count, then pairs
-- of a field of meta and what it grows by (the stages' times).
-- Returns first (1 or 0), 1 if the plan is at its end and every batch of it is done, and 1 if a plan was announced.
-- Returns -1 if the job is unknown, or if some of its keys are gone (evicted): the rest is removed then, because
-- a bitmap without its bits would count batches twice.
local BUCKET_SECONDS = 10
local BUCKETS_KEPT = 12
local meta = KEYS[1]
local function number(field)
  return tonumber(redis.call('HGET', meta, field) or '0')
end
if not redis.call('HGET', meta, 'open') then
  return {-1, 0, 0}
end
local state = redis.call('HGET', meta, 'state')
local complete = state == 'complete'
if not complete then
  local bits_gone = number('done') > 0 and redis.call('EXISTS', KEYS[2]) == 0
  local codes_gone = number('failed') > 0 and redis.call('EXISTS', KEYS[3]) == 0
  if bits_gone or codes_gone then
    redis.call('DEL', unpack(KEYS))
    return {-1, 0, 0}
  end
end
local function end_claim()
  redis.call('ZREM', KEYS[5], ARGV[1])
  redis.call('HDEL', KEYS[6], ARGV[1])
end
if complete then
  end_claim()
  return {0, 1, 1}
end
-- The first write, because a full server refuses only that one: it takes all of a completion or nothing.
local first = redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 0
end_claim()
if first then
  local images = tonumber(ARGV[2]) + tonumber(ARGV[3])
  redis.call('HINCRBY', meta, 'done', 1)
  redis.call('HINCRBY', meta, 'ok', ARGV[2])
  redis.call('HINCRBY', meta, 'failed', ARGV[3])
  local codes_end = 4 + 2 * tonumber(ARGV[4])
  for i = 5, #ARGV, 2 do
    redis.call('HINCRBY', i < codes_end and KEYS[3] or meta, ARGV[i], ARGV[i + 1])
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
-- What was in hand when the job was given up: with it it is forgotten.
local left = state == 'cancelled' and redis.call('PTTL', meta) or -1
if left > 0 then
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, left)
  end
end
local planned = number('batches_planned')
local all_done = redis.call('HGET', meta, 'plan_complete') and number('done') >= planned
return {first and 1 or 0, all_done and 1 or 0, planned > 0 and 1 or 0}
