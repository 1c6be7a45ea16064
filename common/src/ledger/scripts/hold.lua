-- Gives a job up or holds it back. KEYS: meta, done, errors, rate, claims, claimers. ARGV: the state (cancelled or
-- paused), and the ms that a job which is given up is kept from now on.
-- Returns 0 if the job is unknown, complete, or to be paused and given up already.
local state = redis.call('HGET', KEYS[1], 'state')
if not redis.call('HGET', KEYS[1], 'open') or state == 'complete' or (state == 'cancelled' and ARGV[1] == 'paused') then
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
if ARGV[1] == 'cancelled' then
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
return 1
