-- Moves the note of how far a job's batches are queued, on for the chain that it is of, never back.
-- KEYS: meta. ARGV: chain, next batch. Returns 1 if the note is the caller's now.
local noted = redis.call('HGET', KEYS[1], 'fed')
if noted then
  local chain, next = string.match(noted, '^(%x+):(%d+)$')
  if chain and (chain ~= ARGV[1] or tonumber(next) >= tonumber(ARGV[2])) then
    return 0
  end
end
redis.call('HSET', KEYS[1], 'fed', ARGV[1] .. ':' .. ARGV[2])
return 1
