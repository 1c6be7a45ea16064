-- Records that a job is complete, with the counters of its manifest in the place of those that were counted.
-- KEYS: meta, errors, claims, claimers, done, rate. ARGV: ms that the job is kept from now on, batches, images ok, images
-- failed, number of codes, as many pairs of error code and count, then pairs of a field of meta and its value (the
-- stages' times; what is not given stays).
local meta = KEYS[1]
redis.call('HSET', meta, 'state', 'complete', 'plan_complete', '1',
  'batches_planned', ARGV[2], 'done', ARGV[2],
  'images_planned', string.format('%.0f', tonumber(ARGV[3]) + tonumber(ARGV[4])),
  'ok', ARGV[3], 'failed', ARGV[4])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
local codes_end = 5 + 2 * tonumber(ARGV[5])
for i = 6, #ARGV, 2 do
  redis.call('HSET', i < codes_end and KEYS[2] or meta, ARGV[i], ARGV[i + 1])
end
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[5], KEYS[6]}) do
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1
