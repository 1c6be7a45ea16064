-- Takes a worker's report. KEYS: index, the worker's key. ARGV: its name, the report, its time to live in ms.
local time = redis.call('TIME')
local now = string.format('%d%03d', tonumber(time[1]), math.floor(tonumber(time[2]) / 1000))
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
