-- What every script begins with. ARGV[1] is '' for the server's time, or ms since the Unix epoch in tests.

local MICRO = 1000000
-- A bucket outlives its last drop by this, so that its time still holds when the clock steps back.
local SLACK_MS = 60000
local DRAINS, FIXED, SLIDING, SLOTS = 1, 2, 3, 4
-- domain::bucket::level::PARTS
local PARTS = 20

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

