-- Takes one reward for a decision or an episode and says what it was.
-- KEYS: 1 event stream, 2 deadlines, 3 reply of this very call if it was sent before, 4 observations of the target,
--       5 episode list, or '' when the target is a decision
-- ARGV: 1 prefix of decision hashes, 2 decision id or '', 3 whose word, 4 reward (JSON), 5 truncated (JSON), 6 time (unix s),
--       7 retention (s), 8 TTL of the observations (s), 9 event JSON without late, previous, members,
--       10 tenant whose decisions alone count, or ''
-- Reply: recorded | duplicate | corrected | late | unknown
local sent = redis.call('GET', KEYS[3])
if sent then
  return sent
end

local candidates = KEYS[5] == '' and {ARGV[2]} or redis.call('LRANGE', KEYS[5], 0, -1)
local time, members, deadline, closed = tonumber(ARGV[6]), {}, 0, true
for _, id in ipairs(candidates) do
  local known = redis.call('HMGET', ARGV[1] .. id, 'time', 'deadline', 'tenant', 'closed')
  local own = ARGV[10] == '' or known[3] == ARGV[10]
  if known[1] and own and time <= tonumber(known[1]) + tonumber(ARGV[7]) then
    members[#members + 1] = id
    deadline = math.max(deadline, tonumber(known[2]))
    closed = closed and known[4]
  end
end
if #members == 0 then
  return 'unknown'
end

-- What is said of an episode holds for the decisions that it has by then: said again when it has more, it is new.
local word = ARGV[4] .. '|' .. ARGV[5]
local value = KEYS[5] == '' and word or word .. '|' .. #members
local earlier = redis.call('HGET', KEYS[4], ARGV[3])
local was_late = earlier and earlier:sub(-5) == '|late'
local said = was_late and earlier:sub(1, -6) or earlier
local status = 'recorded'
if said == value then
  status = 'duplicate'
elseif was_late then
  status = 'late' -- what was not learned cannot be corrected
elseif earlier and said:sub(1, #word) ~= word then
  status = 'corrected'
elseif closed or time > deadline then
  status = 'late' -- a time-out closes for good, even if the clock that brought it was ahead of this one
end
redis.call('SET', KEYS[3], status, 'EX', 600)
if status == 'duplicate' then
  return status
end

redis.call('HSET', KEYS[4], ARGV[3], value .. (status == 'late' and '|late' or ''))
redis.call('EXPIRE', KEYS[4], ARGV[8])
for _, id in ipairs(members) do
  if redis.call('ZREM', KEYS[2], id) == 1 and status == 'late' then
    redis.call('HSET', ARGV[1] .. id, 'closed', 1) -- as its time-out would have done
  end
end
-- Rewards stay text on their way through: a Lua number would be printed with 14 digits.
local filled = string.format(',"late":%s,"previous":%s,"members":%s}',
  tostring(status == 'late'), earlier and earlier:match('^[^|]*') or 'null', cjson.encode(members))
redis.call('XADD', KEYS[1], '*', 'type', 'feedback', 'data', ARGV[9]:sub(1, -2) .. filled)
return status
