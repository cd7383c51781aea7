-- Decides requests one after the other, each over all its buckets: it takes from all of them or from none.
-- The rule is domain::leaky_bucket; a property test holds the two together.
--
-- KEYS     the buckets, each once: text "<level in micro-tokens>:<ms since the Unix epoch>", absent when empty
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per request: amount (tokens), number of buckets;
--          per bucket of it: place in KEYS (from 1), capacity (tokens), leak (micro-tokens per ms)
-- Answers  flat integers, per request: 1 allowed or 0 refused;
--          per bucket of it: level (micro-tokens), time of the level (ms), wait (ms; 0 the amount would pass, -1 no wait helps)
--
-- Numbers here are doubles, exact up to 2^53 = 9.0e15. The largest: a level or a capacity is at most 1e9 tokens = 1e15 micro-tokens,
-- a level with an amount on top at most 2e15, a time in ms about 2e12. An amount is multiplied only after it was found
-- not to exceed the capacity. elapsed * leak may exceed 2^53 and be rounded, but then it also exceeds every level, so the comparison
-- is right, and a difference is formed only of exact numbers. A quotient of integers below 2^53 never rounds up to
-- the next integer, so ceil is exact.

local MICRO = 1000000
-- A bucket outlives its last drop by this, so that its time still holds when the clock steps back.
local SLACK_MS = 60000

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local levels, times, changed = {}, {}, {}
for place, stored in ipairs(redis.call('MGET', unpack(KEYS))) do
  local level, time
  if stored then
    level, time = string.match(stored, '^(%d+):(%d+)$')
  end
  levels[place], times[place] = tonumber(level or 0), tonumber(time or 0)
end

local answer, next_arg = {}, 2
while next_arg <= #ARGV do
  local amount, buckets = tonumber(ARGV[next_arg]), tonumber(ARGV[next_arg + 1])
  local first_bucket = next_arg + 2
  next_arg = first_bucket + 3 * buckets

  local verdict = #answer + 1
  answer[verdict] = 1
  for arg = first_bucket, next_arg - 1, 3 do
    local place, capacity, leak = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
    local level, time = levels[place], times[place]
    if now > time then
      level = math.max(level - (now - time) * leak, 0)
      time = now
    end
    local wait = 0
    if amount > capacity then
      wait = -1
    else
      local excess = level + amount * MICRO - capacity * MICRO
      if excess > 0 then
        wait = math.ceil(excess / leak)
      end
    end
    if wait ~= 0 then
      answer[verdict] = 0
    end
    answer[#answer + 1] = level
    answer[#answer + 1] = time
    answer[#answer + 1] = wait
  end

  if answer[verdict] == 1 then
    local slot = verdict + 1
    for arg = first_bucket, next_arg - 1, 3 do
      local place, leak = tonumber(ARGV[arg]), tonumber(ARGV[arg + 2])
      answer[slot] = answer[slot] + amount * MICRO
      levels[place], times[place], changed[place] = answer[slot], answer[slot + 1], leak
      slot = slot + 3
    end
  end
end

for place, leak in pairs(changed) do
  local expiry = math.ceil(levels[place] / leak) + SLACK_MS
  redis.call('SET', KEYS[place], string.format('%.0f:%.0f', levels[place], times[place]), 'PX', string.format('%.0f', expiry))
end
return answer
