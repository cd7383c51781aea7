-- Decides requests one after the other, each over all its buckets: it takes from all of them or from none.
-- The rule is domain::bucket; the histories of contract-tests hold the two together.
--
-- KEYS     the buckets, each once. Amounts: text "<micro-tokens>:<ms>", in a sliding window followed by ",<micro-tokens>:<ms>" for each
--          earlier portion, newest first; then ";<ms>" as long as slices may be lent, the time until which; absent when empty.
--          Slots: a sorted set of hold ids by deadline in ms. Times are since 1970.
-- ARGV[1]  '' for the server's time; ms in tests
--          The marks of known payers stand among them, see restore.lua.
-- ARGV     per request: amount (tokens), place in KEYS of its payer's mark or 0, number of buckets;
--          per bucket of it, each once: place in KEYS (from 1), capacity, kind, pace;
--            kind 1 drains:         capacity in tokens, pace in micro-tokens per ms
--            kind 2 fixed window:   capacity in tokens, pace is the window in ms
--            kind 3 sliding window: as 2
--            kind 4 slots:          capacity in holds, pace is the time to live of this hold in ms, then its id;
--                                   an empty id takes no slot
--            kinds 11, 12, 13:      1, 2, 3 of which slices are lent; then the tokens that the process wants to be lent
-- Answers  flat integers, per request: 1 allowed, 0 refused, or 2 where its payer is not known, and then nothing else;
--          per bucket of it: used (micro-tokens), at (ms), empty after (ms), wait (ms; 0 the amount would pass, -1 no wait helps);
--          of kinds 11, 12, 13 also what was lent (tokens), which is used then
--
-- Numbers here are doubles, exact up to 2^53 = 9.0e15. The largest: a level or a capacity is at most 1e9 tokens = 1e15 micro-tokens,
-- a level with an amount on top at most 2e15, a time in ms about 2e12. An amount is multiplied only after it was found
-- not to exceed the capacity. elapsed * pace may exceed 2^53 and be rounded, but then it also exceeds every level, so the comparison
-- is right, and a difference is formed only of exact numbers. A quotient of integers below 2^53 never rounds up to
-- the next integer, so ceil is exact.

-- Added to a kind of which slices are lent; the reasons are at BucketRule::lends.
local LENT = 10
-- domain::bucket::LEASE_MS
local LEASE_MS = 100
-- Of the room that is left, one process is lent this part at most; and nothing if that is less than so many requests.
local LENT_PART, LENT_REQUESTS = 8, 8

-- Per place: the newest portion, the earlier ones as {micro-tokens, ms, ...}, and until when something may be lent.
local micros, times, earlier, lent_until, present = {}, {}, {}, {}, {}
for place, stored in ipairs(redis.call('MGET', unpack(KEYS))) do
  present[place] = stored
  micros[place], times[place] = 0, 0
  if stored then
    local micro, time, rest = string.match(stored, '^(%d+):(%d+)(.*)$')
    micros[place], times[place] = tonumber(micro or 0), tonumber(time or 0)
    if rest and rest ~= '' then
      lent_until[place] = tonumber(string.match(rest, ';(%d+)$'))
      local portions
      for portion_micro, portion_time in string.gmatch(rest, ',(%d+):(%d+)') do
        portions = portions or {}
        portions[#portions + 1] = tonumber(portion_micro)
        portions[#portions + 1] = tonumber(portion_time)
      end
      earlier[place] = portions
    end
  end
end

-- Level::as_of: the newest portion and the earlier ones without what has left, and the sum.
local function as_of(place, kind, pace)
  local micro, time, portions = micros[place], times[place], earlier[place]
  if kind ~= DRAINS and now - time >= pace then
    return 0, now, nil, 0
  end
  local total, kept = micro, nil
  if portions then
    kept = kind == SLIDING and {} or nil
    for i = 1, #portions, 2 do
      if kept then
        if now - portions[i + 1] >= pace then
          break
        end
        kept[i], kept[i + 1] = portions[i], portions[i + 1]
      end
      total = total + portions[i]
    end
  end
  if kind == SLIDING then
    return micro, time, kept, total
  end
  if kind == DRAINS and now > time then
    total, time = math.max(total - (now - time) * pace, 0), now
  end
  return total, time, nil, total
end

-- Level::wait
local function wait_for(excess, kind, pace, time, portions)
  if kind == DRAINS then
    return math.max(time - now, 0) + math.ceil(excess / pace)
  end
  if portions then
    for i = #portions - 1, 1, -2 do
      excess = excess - portions[i]
      if excess <= 0 then
        return portions[i + 1] + pace - now
      end
    end
  end
  return time + pace - now
end

-- Level::empty_after
local function empty_after(kind, pace, time, total)
  if total == 0 then
    return 0
  end
  if kind == DRAINS then
    return math.max(time - now, 0) + math.ceil(total / pace)
  end
  return time + pace - now
end

-- Level::plus; answers the newest portion and the earlier ones.
local function plus(needed, kind, pace, micro, time, portions, when)
  if kind ~= SLIDING or needed == 0 then
    return micro + needed, time, portions
  end
  local at, part = math.max(time, when), math.max(math.floor(pace / PARTS), 1)
  if micro > 0 and math.floor(at / part) ~= math.floor(time / part) then
    portions = portions or {}
    table.insert(portions, 1, time)
    table.insert(portions, 1, micro)
    micro = 0
  end
  return micro + needed, at, portions
end

-- Slots::wait
local function slot_wait(key, capacity, id)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local running = redis.call('ZCARD', key)
  local wait = 0
  if id ~= '' and running >= capacity and not redis.call('ZSCORE', key, id) then
    wait = tonumber(redis.call('ZRANGE', key, running - capacity, running - capacity, 'WITHSCORES')[2]) - now
  end
  return running, wait
end

local function last_deadline(key)
  return tonumber(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2] or now)
end

-- Slots::take; answers the last deadline.
local function take_slot(key, ttl, id)
  if id ~= '' then
    redis.call('ZADD', key, 'NX', string.format('%.0f', now + math.max(ttl, 1)), id)
  end
  local last = last_deadline(key)
  if id ~= '' then
    redis.call('PEXPIRE', key, string.format('%.0f', last - now + SLACK_MS))
  end
  return last
end

-- Arguments of a bucket.
local function width(kind)
  return (kind > LENT or kind == SLOTS) and 5 or 4
end

-- Micro-tokens that stay free while slices are lent.
local function margin(kind, pace)
  return kind == DRAINS and 2 * LEASE_MS * pace or 0
end

-- Whole tokens that the process is lent beside the amount that it takes.
local function lend(wanted, amount, capacity, kind, pace, used)
  local room = capacity * MICRO - margin(kind, pace) - used
  local lent = math.min(wanted, math.floor(room / (LENT_PART * MICRO)))
  return lent >= LENT_REQUESTS * math.max(amount, 1) and lent or 0
end

local answer, next_arg = {}, 2
-- Per place: ms until it is empty.
local changed = {}
while next_arg <= #ARGV do
  local amount, mark, buckets = tonumber(ARGV[next_arg]), tonumber(ARGV[next_arg + 1]), tonumber(ARGV[next_arg + 2])
  local verdict = #answer + 1
  local allowed = 1
  answer[verdict] = 1
  local known = mark == 0 or present[mark]

  -- What each bucket holds and whether it lets the amount pass.
  local newest, at, older, arg = {}, {}, {}, next_arg + 3
  for bucket = 1, buckets do
    if not known then
      break
    end
    local place, capacity = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
    local kind, pace = tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
    local slot, wait = #answer, 0
    if kind == SLOTS then
      local running
      running, wait = slot_wait(KEYS[place], capacity, ARGV[arg + 4])
      answer[slot + 1], answer[slot + 2], answer[slot + 3] = running * MICRO, now, last_deadline(KEYS[place]) - now
      arg = arg + 5
    else
      local total
      local lends, limit, lent = kind > LENT, capacity * MICRO, lent_until[place] or 0
      if lends then
        kind = kind - LENT
        if lent > now then
          limit = limit - margin(kind, pace)
        end
      end
      newest[bucket], at[bucket], older[bucket], total = as_of(place, kind, pace)
      if amount > capacity then
        wait = -1
      elseif amount * MICRO > limit then
        wait = lent - now
      else
        local excess = total + amount * MICRO - limit
        if excess > 0 then
          wait = wait_for(excess, kind, pace, at[bucket], older[bucket])
        end
      end
      answer[slot + 1], answer[slot + 2] = total, math.max(at[bucket], now)
      answer[slot + 3] = empty_after(kind, pace, at[bucket], total)
      if lends then
        answer[slot + 5] = 0
      end
      arg = arg + (lends and 5 or 4)
    end
    answer[slot + 4] = wait
    if wait ~= 0 then
      allowed = 0
    end
  end

  if not known then
    allowed = 2
    for _ = 1, buckets do
      arg = arg + width(tonumber(ARGV[arg + 2]))
    end
  end
  answer[verdict] = allowed
  if allowed == 1 then
    local slot, needed = verdict, amount * MICRO
    arg = next_arg + 3
    for bucket = 1, buckets do
      local place, kind, pace = tonumber(ARGV[arg]), tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
      if kind == SLOTS then
        answer[slot + 3] = take_slot(KEYS[place], pace, ARGV[arg + 4]) - now
        answer[slot + 1] = redis.call('ZCARD', KEYS[place]) * MICRO
        arg = arg + 5
        slot = slot + 4
      else
        local lends, lent = kind > LENT, 0
        if lends then
          kind = kind - LENT
          lent = lend(tonumber(ARGV[arg + 4]), amount, tonumber(ARGV[arg + 1]), kind, pace, answer[slot + 1] + needed)
        end
        local taken = needed + lent * MICRO
        local when = lent > 0 and now + LEASE_MS or now
        local micro, time, portions = plus(taken, kind, pace, newest[bucket], at[bucket], older[bucket], when)
        micros[place], times[place], earlier[place] = micro, time, portions
        answer[slot + 1], answer[slot + 2] = answer[slot + 1] + taken, math.max(time, now)
        changed[place] = empty_after(kind, pace, time, answer[slot + 1])
        answer[slot + 3] = changed[place]
        if kind == DRAINS and lends and (lent > 0 or (lent_until[place] or 0) > now) then
          -- As long as anything of it may be spent late, and until the bucket has been empty for a lease.
          lent_until[place] = math.max(lent_until[place] or 0, now + changed[place] + LEASE_MS)
        end
        if lends then
          answer[slot + 5] = lent
        end
        arg = arg + (lends and 5 or 4)
        slot = slot + (lends and 5 or 4)
      end
    end
  end
  next_arg = arg
end

for place, expiry in pairs(changed) do
  local text = string.format('%.0f:%.0f', micros[place], times[place])
  local portions = earlier[place]
  if portions then
    for i = 1, #portions, 2 do
      text = text .. string.format(',%.0f:%.0f', portions[i], portions[i + 1])
    end
  end
  local lent = lent_until[place]
  if lent and lent > now then
    text = text .. string.format(';%.0f', lent)
    expiry = math.max(expiry, lent - now)
  end
  redis.call('SET', KEYS[place], text, 'PX', string.format('%.0f', expiry + SLACK_MS))
end
return answer
