-- Raises what is planned, never lowers it; with ARGV[3] = '1' the plan is at its end.
-- KEYS: meta. ARGV: batches, images, at its end.
-- Returns 1 if the plan is at its end and every batch of it is done.
local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or '0')
end
if tonumber(ARGV[1]) > number('batches_planned') then
  redis.call('HSET', KEYS[1], 'batches_planned', ARGV[1])
end
if tonumber(ARGV[2]) > number('images_planned') then
  redis.call('HSET', KEYS[1], 'images_planned', ARGV[2])
end
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'plan_complete', '1')
  if redis.call('HGET', KEYS[1], 'state') == 'enqueuing' then
    redis.call('HSET', KEYS[1], 'state', 'running')
  end
end
if redis.call('HGET', KEYS[1], 'plan_complete') and number('done') >= number('batches_planned') then
  return 1
end
return 0
