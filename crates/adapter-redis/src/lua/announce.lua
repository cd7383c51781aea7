-- Says that a process is alive and counts those that are.
--
-- KEYS[1]  sorted set of process ids by the time they were last heard of (ms since the Unix epoch)
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV[2]  id of this process
-- ARGV[3]  ms after which a silent process counts no more
-- Answers  processes alive, this one included

local lifetime = tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - lifetime))
redis.call('PEXPIRE', KEYS[1], lifetime)
return { redis.call('ZCARD', KEYS[1]) }
