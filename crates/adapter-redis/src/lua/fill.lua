-- Puts into buckets what a request came to beyond what it took, as far as there is room; nothing where the payer is not known.
-- The rule is domain::bucket; numbers, buckets and kinds as in take.lua.
--
-- KEYS     the buckets and the marks of known payers (see restore.lua), each once
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per entry: place of the bucket in KEYS, place of its payer's mark or 0, capacity (tokens), kind, pace,
--          amount (tokens, at most 1e9)
-- Answers  nothing

local MICRO = 1000000
local SLACK_MS = 60000
local DRAINS, SLIDING = 1, 3
local PARTS = 20

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A list {micro-tokens, ms, ...}, newest portion first; one that is empty where nothing is stored.
local function read(key)
  local portions = {}
  for micro, time in string.gmatch(redis.call('GET', key) or '', '(%d+):(%d+)') do
    portions[#portions + 1] = tonumber(micro)
    portions[#portions + 1] = tonumber(time)
  end
  return #portions > 0 and portions or { 0, 0 }
end

local function sum(portions)
  local total = 0
  for i = 1, #portions, 2 do
    total = total + portions[i]
  end
  return total
end

-- Level::as_of
local function as_of(portions, kind, pace)
  if kind ~= DRAINS and now - portions[2] >= pace then
    return { 0, now }
  end
  if kind == SLIDING then
    while now - portions[#portions] >= pace do
      portions[#portions], portions[#portions - 1] = nil, nil
    end
    return portions
  end
  local total, time = sum(portions), portions[2]
  if kind == DRAINS and now > time then
    total, time = math.max(total - (now - time) * pace, 0), now
  end
  return { total, time }
end

-- Level::plus
local function plus(portions, kind, pace, needed)
  if kind == SLIDING and needed > 0 then
    local at, part = math.max(portions[2], now), math.max(math.floor(pace / PARTS), 1)
    if portions[1] > 0 and math.floor(at / part) ~= math.floor(portions[2] / part) then
      table.insert(portions, 1, at)
      table.insert(portions, 1, 0)
    end
    portions[2] = at
  end
  portions[1] = portions[1] + needed
end

-- Level::empty_after
local function empty_after(portions, kind, pace)
  local total = sum(portions)
  if total == 0 then
    return 0
  end
  if kind == DRAINS then
    return math.max(portions[2] - now, 0) + math.ceil(total / pace)
  end
  return portions[2] + pace - now
end

for arg = 2, #ARGV, 6 do
  local key, mark, capacity = KEYS[tonumber(ARGV[arg])], tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  local kind, pace, amount = tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4]), tonumber(ARGV[arg + 5])
  if mark == 0 or redis.call('EXISTS', KEYS[mark]) == 1 then
    local portions = as_of(read(key), kind, pace)
    -- BucketRule::fill
    plus(portions, kind, pace, math.min(amount * MICRO, math.max(capacity * MICRO - sum(portions), 0)))
    local text = {}
    for i = 1, #portions, 2 do
      text[#text + 1] = string.format('%.0f:%.0f', portions[i], portions[i + 1])
    end
    local expiry = empty_after(portions, kind, pace) + SLACK_MS
    redis.call('SET', key, table.concat(text, ','), 'PX', string.format('%.0f', expiry))
  end
end
