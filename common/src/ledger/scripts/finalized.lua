-- Records that a job is complete, with the counters of its manifest in the place of those that were counted.
-- KEYS: meta, errors, claims, claimers. ARGV: batches, images ok, images failed, number of codes, as many pairs of
-- error code and count, then pairs of a field of meta and its value (the stages' times; what is not given stays).
local meta = KEYS[1]
redis.call('HSET', meta, 'state', 'complete', 'plan_complete', '1',
  'batches_planned', ARGV[1], 'done', ARGV[1],
  'images_planned', string.format('%.0f', tonumber(ARGV[2]) + tonumber(ARGV[3])),
  'ok', ARGV[2], 'failed', ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
local codes_end = 4 + 2 * tonumber(ARGV[4])
for i = 5, #ARGV, 2 do
  redis.call('HSET', i < codes_end and KEYS[2] or meta, ARGV[i], ARGV[i + 1])
end
return 1
