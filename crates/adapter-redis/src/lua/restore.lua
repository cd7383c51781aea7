-- Writes the buckets of a payer that the server has forgotten, as the ledger remembers them. Where somebody was faster it does nothing.
--
-- KEYS[1]  the mark of a known payer: ms since the Unix epoch at which it was restored
-- KEYS     then its buckets, kept as take.lua says
-- ARGV[1]  '' for the server's time; ms since the Unix epoch in tests
-- ARGV[2]  ms for which the payer stays known
-- ARGV     per bucket: ms for which it is kept, number of slots or -1, then its text or for each slot deadline (ms) and hold id
-- Answers  1 written, 0 known already

if redis.call('EXISTS', KEYS[1]) == 1 then
  return { 0 }
end
local arg = 3
for place = 2, #KEYS do
  local key, keep, slots = KEYS[place], ARGV[arg], tonumber(ARGV[arg + 1])
  arg = arg + 2
  if slots < 0 then
    redis.call('SET', key, ARGV[arg], 'PX', keep)
    arg = arg + 1
  else
    redis.call('DEL', key)
    for _ = 1, slots do
      redis.call('ZADD', key, ARGV[arg], ARGV[arg + 1])
      arg = arg + 2
    end
    redis.call('PEXPIRE', key, keep)
  end
end
redis.call('SET', KEYS[1], string.format('%.0f', now), 'PX', ARGV[2])
return { 1 }
