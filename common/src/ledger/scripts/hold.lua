-- Gives a job up or holds it back. KEYS: meta. ARGV: the state (cancelled or paused).
-- Returns 0 if the job is unknown, complete, or to be paused and given up already.
local state = redis.call('HGET', KEYS[1], 'state')
if not redis.call('HGET', KEYS[1], 'open') or state == 'complete' or (state == 'cancelled' and ARGV[1] == 'paused') then
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
return 1
