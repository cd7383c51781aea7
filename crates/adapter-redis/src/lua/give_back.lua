-- Undoes takes whose request led to nothing, or to less: lowers each bucket, never below empty, by what has not left it meanwhile.
-- The rule is domain::bucket; numbers, buckets and kinds as in take.lua.
--
-- KEYS     one bucket per entry; a bucket may occur more than once
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV     per entry: kind, pace, amount (tokens, at most 1e9), held for (ms), hold id or ''
-- Answers  nothing

-- Level::as_of and Level::minus; answers the portions that are left and the ms until they have left too.
local function without(stored, kind, pace, micro, held_for)
  if is_over(stored, kind, pace) then
    return { 0, now }, 0
  end
  local taken_at = math.max(stored[2], now) - held_for
  local portions = as_of(stored, kind, pace)
  if kind == DRAINS then
    portions[1] = math.max(portions[1] - math.max(micro - held_for * pace, 0), 0)
    return portions, math.max(portions[2] - now, 0) + math.ceil(portions[1] / pace)
  end
  if kind == FIXED then
    if taken_at >= portions[2] then
      portions[1] = math.max(portions[1] - micro, 0)
    end
  elseif now - taken_at < pace then
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

for place, key in ipairs(KEYS) do
  local arg = 5 * place - 3
  local kind, pace, amount, held_for = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  if kind == SLOTS then
    if ARGV[arg + 4] ~= '' then
      redis.call('ZREM', key, ARGV[arg + 4])
    end
  else
    local stored, lent_until = read(key)
    if stored then
      local portions, empty_after = without(stored, kind, pace, amount * MICRO, held_for)
      write(key, portions, empty_after, lent_until)
    end
  end
end
