-- A bucket as a list {micro-tokens, ms, ...}, newest portion first, for the scripts that change one after the other; kept as take.lua says.

-- nil where nothing is stored.
local function read(key)
  local portions
  for micro, time in string.gmatch(redis.call('GET', key) or '', '(%d+):(%d+)') do
    portions = portions or {}
    portions[#portions + 1] = tonumber(micro)
    portions[#portions + 1] = tonumber(time)
  end
  return portions
end

local function write(key, portions, empty_after)
  local text = {}
  for i = 1, #portions, 2 do
    text[#text + 1] = string.format('%.0f:%.0f', portions[i], portions[i + 1])
  end
  redis.call('SET', key, table.concat(text, ','), 'PX', string.format('%.0f', empty_after + SLACK_MS))
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

