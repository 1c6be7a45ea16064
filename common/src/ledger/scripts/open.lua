-- Records a job, or takes a held one back to work; anything else is left as it is.
-- KEYS: meta, done, errors, rate, claims, claimers. ARGV: out, queue, created (ms since 1970).
-- Another time of creation is another job of the same name, whose output was removed: nothing of the old one holds.
local had = redis.call('HGET', KEYS[1], 'created')
if had and had ~= ARGV[3] then
  redis.call('DEL', unpack(KEYS))
end
-- Bits and codes without the hash that counts them are what an eviction left over: they would hide batches from it.
if not redis.call('HGET', KEYS[1], 'open') then
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
end
-- `open` is what makes a job known: what is planned may be here before it, when the ledger was wiped under a submit.
redis.call('HSETNX', KEYS[1], 'out', ARGV[1])
redis.call('HSETNX', KEYS[1], 'queue', ARGV[2])
redis.call('HSETNX', KEYS[1], 'created', ARGV[3])
redis.call('HSETNX', KEYS[1], 'open', '1')
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'cancelled' or state == 'paused' then
  for _, key in ipairs(KEYS) do
    redis.call('PERSIST', key)
  end
  if redis.call('HGET', KEYS[1], 'plan_complete') then
    redis.call('HSET', KEYS[1], 'state', 'running')
  else
    redis.call('HSET', KEYS[1], 'state', 'enqueuing')
  end
end
return 1
