-- What is known of a batch before it is worked on; claims it unless it is done or its job is held.
-- KEYS: meta, done, claims, claimers. ARGV: batch number, worker (empty claims nothing).
-- Returns the state and 1 if the batch is done, or nil if the job is unknown.
local known = redis.call('HMGET', KEYS[1], 'open', 'state')
if not known[1] then
  return false
end
local state = known[2] or ''
local done = redis.call('GETBIT', KEYS[2], ARGV[1])
if done == 0 and ARGV[2] ~= '' and state ~= 'cancelled' and state ~= 'paused' then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  -- A claim is for display: a full server that refuses it has answered the question all the same.
  local claimed = redis.pcall('ZADD', KEYS[3], string.format('%.0f', now), ARGV[1])
  if type(claimed) == 'number' then
    redis.pcall('HSET', KEYS[4], ARGV[1], ARGV[2])
  end
end
return {state, done}
