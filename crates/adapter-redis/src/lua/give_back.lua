-- Undoes takes whose request led to nothing: lowers each bucket, never below empty. Numbers and buckets as in take.lua.
--
-- KEYS     one bucket per entry; a bucket may occur more than once
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per entry: amount (tokens, at most 1e9), leak (micro-tokens per ms)
-- Answers  nothing

local MICRO = 1000000
local SLACK_MS = 60000

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

for place, key in ipairs(KEYS) do
  local amount, leak = tonumber(ARGV[2 * place]), tonumber(ARGV[2 * place + 1])
  local level, time = string.match(redis.call('GET', key) or '', '^(%d+):(%d+)$')
  -- A bucket that is not stored is empty already.
  if level then
    level, time = tonumber(level), tonumber(time)
    if now > time then
      level = math.max(level - (now - time) * leak, 0)
      time = now
    end
    level = math.max(level - amount * MICRO, 0)
    local expiry = math.ceil(level / leak) + SLACK_MS
    redis.call('SET', key, string.format('%.0f:%.0f', level, time), 'PX', string.format('%.0f', expiry))
  end
end
