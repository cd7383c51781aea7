-- All or nothing over buckets that leak at a constant rate, each kept as the time at which it is empty (GCRA).
--
-- KEYS     the buckets
-- ARGV     amount (tokens), microseconds per token, and how far ahead of now a bucket may be (microseconds)
-- Answers  0 taken, else microseconds until the amount would pass

local amount, interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local empty_at, wait = redis.call('MGET', unpack(KEYS)), 0
for bucket = 1, #KEYS do
  empty_at[bucket] = math.max(tonumber(empty_at[bucket] or 0), now) + amount * interval
  wait = math.max(wait, empty_at[bucket] - now - burst)
end
if wait == 0 then
  for bucket = 1, #KEYS do
    redis.call('SET', KEYS[bucket], string.format('%.0f', empty_at[bucket]), 'PX', math.ceil((empty_at[bucket] - now) / 1000))
  end
end
return wait
