-- Turns due deadlines into time-out events; a deadline leaves in the step that appends its event.
-- KEYS: 1 event stream, 2 deadlines
-- ARGV: 1 now (unix s, JSON), 2 how many at most
-- Reply: how many were posted
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(due) do
  redis.call('ZREM', KEYS[2], id)
  local data = string.format('{"type":"timeout","time":%s,"decision_id":%s}', ARGV[1], cjson.encode(id))
  redis.call('XADD', KEYS[1], '*', 'type', 'timeout', 'data', data)
end
return #due
