-- Changes records of arms and appends the event that did it, if the records still are what the change was made for.
-- KEYS: 1 event stream, 2 hash of arms, 3 count of changes
-- ARGV: 1 event type, 2 event JSON, then for each record: arm, its record before or '', its record after or ''
-- Reply: 1 changed, 0 somebody else changed a record in between
for i = 3, #ARGV, 3 do
  if (redis.call('HGET', KEYS[2], ARGV[i]) or '') ~= ARGV[i + 1] then
    return 0
  end
end
for i = 3, #ARGV, 3 do
  if ARGV[i + 2] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
  end
end
redis.call('XADD', KEYS[1], '*', 'type', ARGV[1], 'data', ARGV[2])
redis.call('INCR', KEYS[3])
return 1
