-- Records that a job is complete, with the counters of its manifest in the place of those that were counted.
-- KEYS: meta, errors, claims, claimers. ARGV: batches, images ok, images failed, then pairs of error code and count.
local meta = KEYS[1]
redis.call('HSET', meta, 'state', 'complete', 'plan_complete', '1',
  'batches_planned', ARGV[1], 'done', ARGV[1],
  'images_planned', string.format('%.0f', tonumber(ARGV[2]) + tonumber(ARGV[3])),
  'ok', ARGV[2], 'failed', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
