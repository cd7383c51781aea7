-- Puts into buckets what a request came to beyond what it took, as far as there is room; nothing where the payer is not known.
-- The rule is domain::bucket; numbers, buckets and kinds as in take.lua.
--
-- KEYS     the buckets and the marks of known payers (see restore.lua), each once
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per entry: place of the bucket in KEYS, place of its payer's mark or 0, capacity (tokens), kind, pace,
--          amount (tokens, at most 1e9)
-- Answers  nothing

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
    local stored, lent_until = read(key)
    local portions = as_of(stored or { 0, 0 }, kind, pace)
    -- BucketRule::fill
    plus(portions, kind, pace, math.min(amount * MICRO, math.max(capacity * MICRO - sum(portions), 0)))
    write(key, portions, empty_after(portions, kind, pace), lent_until)
  end
end
