-- Says once that a request to forget is done.
-- KEYS: 1 event stream, 2 requests, 3 what was done
-- ARGV: 1 id of the request, 2 event type, 3 event JSON
-- Reply: 1 said, 0 said before
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[1], '*', 'type', ARGV[2], 'data', ARGV[3])
return 1
