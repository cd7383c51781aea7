-- Undoes takes whose request led to nothing, or to less: lowers each bucket, never below empty, by what has not left it meanwhile.
-- The rule is domain::bucket; numbers, buckets and kinds as in take.lua.
--
-- KEYS     one bucket per entry; a bucket may occur more than once
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per entry: kind, pace, amount (tokens, at most 1e9), held for (ms), hold id or ''
-- Answers  nothing

local MICRO = 1000000
local SLACK_MS = 60000
local DRAINS, FIXED, SLIDING, SLOTS = 1, 2, 3, 4

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A list {micro-tokens, ms, ...}, newest portion first, or nil for a bucket that is not stored, which is empty already.
local function read(key)
  local portions
  for micro, time in string.gmatch(redis.call('GET', key) or '', '(%d+):(%d+)') do
    portions = portions or {}
    portions[#portions + 1] = tonumber(micro)
    portions[#portions + 1] = tonumber(time)
  end
  return portions
end

-- All portions as one.
local function sum(portions)
  local total = 0
  for i = 1, #portions, 2 do
    total = total + portions[i]
  end
  return { total, portions[2] }
end

-- Level::as_of and Level::minus; answers the portions that are left and the ms until they have left too.
local function without(portions, kind, pace, micro, held_for)
  if kind ~= DRAINS and now - portions[2] >= pace then
    return { 0, now }, 0
  end
  local taken_at = math.max(portions[2], now) - held_for
  if kind == SLIDING then
    while now - portions[#portions] >= pace do
      portions[#portions], portions[#portions - 1] = nil, nil
    end
    if now - taken_at < pace then
      local own = 1
      for i = #portions - 1, 1, -2 do
        if portions[i + 1] >= taken_at then
          own = i
          break
        end
      end
      portions[own] = math.max(portions[own] - micro, 0)
    end
    return portions, portions[2] + pace - now
  end
  local level = sum(portions)
  if kind == FIXED then
    if taken_at >= level[2] then
      level[1] = math.max(level[1] - micro, 0)
    end
    return level, level[2] + pace - now
  end
  if now > level[2] then
    level[1], level[2] = math.max(level[1] - (now - level[2]) * pace, 0), now
  end
  level[1] = math.max(level[1] - math.max(micro - held_for * pace, 0), 0)
  return level, math.max(level[2] - now, 0) + math.ceil(level[1] / pace)
end

for place, key in ipairs(KEYS) do
  local arg = 5 * place - 3
  local kind, pace, amount, held_for = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  if kind == SLOTS then
    if ARGV[arg + 4] ~= '' then
      redis.call('ZREM', key, ARGV[arg + 4])
    end
  else
    local stored = read(key)
    if stored then
      local portions, expiry = without(stored, kind, pace, amount * MICRO, held_for)
      local text = {}
      for i = 1, #portions, 2 do
        text[#text + 1] = string.format('%.0f:%.0f', portions[i], portions[i + 1])
      end
      redis.call('SET', key, table.concat(text, ','), 'PX', string.format('%.0f', expiry + SLACK_MS))
    end
  end
end
