-- Turns due deadlines into time-out events; a deadline leaves in the step that appends its event.
-- KEYS: 1 event stream, 2 deadlines
-- ARGV: 1 now (unix s, JSON), 2 how many at most, 3 prefix of decision hashes
-- Reply: how many were posted
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(due) do
  redis.call('ZREM', KEYS[2], id)
  if redis.call('EXISTS', ARGV[3] .. id) == 1 then
    redis.call('HSET', ARGV[3] .. id, 'closed', 1)
  end
  local episode = redis.call('HGET', ARGV[3] .. id, 'episode')
  local members = episode and math.max(1, redis.call('LLEN', episode)) or 1
  local form = '{"type":"timeout","time":%s,"decision_id":%s,"members":%d}'
  local data = string.format(form, ARGV[1], cjson.encode(id), members)
  redis.call('XADD', KEYS[1], '*', 'type', 'timeout', 'data', data)
end
return #due
