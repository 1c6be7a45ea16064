-- Gives a job up. KEYS: meta. Returns 0 if it is unknown or complete already.
if not redis.call('HGET', KEYS[1], 'open') or redis.call('HGET', KEYS[1], 'state') == 'complete' then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'cancelled')
return 1
