-- A bucket as a list {micro-tokens, ms, ...}, newest portion first, for the scripts that change one after the other; kept as take.lua says.

-- nil where nothing is stored; then until when slices of it may be lent, nil where none are.
local function read(key)
  local stored, portions = redis.call('GET', key) or '', nil
  for micro, time in string.gmatch(stored, '(%d+):(%d+)') do
    portions = portions or {}
    portions[#portions + 1] = tonumber(micro)
    portions[#portions + 1] = tonumber(time)
  end
  return portions, tonumber(string.match(stored, ';(%d+)$'))
end

local function write(key, portions, empty_after, lent_until)
  local text = {}
  for i = 1, #portions, 2 do
    text[#text + 1] = string.format('%.0f:%.0f', portions[i], portions[i + 1])
  end
  local stored, keep = table.concat(text, ','), empty_after
  if lent_until and lent_until > now then
    stored, keep = stored .. string.format(';%.0f', lent_until), math.max(keep, lent_until - now)
  end
  redis.call('SET', key, stored, 'PX', string.format('%.0f', keep + SLACK_MS))
end

local function sum(portions)
  local total = 0
  for i = 1, #portions, 2 do
    total = total + portions[i]
  end
  return total
end

local function is_over(portions, kind, pace)
  return kind ~= DRAINS and now - portions[2] >= pace
end

-- Level::as_of
local function as_of(portions, kind, pace)
  if is_over(portions, kind, pace) then
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

