-- Appends an arm's registration or removal if it changes anything.
-- KEYS: 1 event stream, 2 hash of registered arms
-- ARGV: 1 arm, 2 its adapter hash as JSON, or '' when it is removed, 3 event type, 4 event JSON
-- Reply: 1 appended, 0 nothing changed
local before = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if before == ARGV[2] then
  return 0
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
redis.call('XADD', KEYS[1], '*', 'type', ARGV[3], 'data', ARGV[4])
return 1
