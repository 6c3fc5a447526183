-- Changes the record of an adapter, if it still is what the change was made for.
-- KEYS: 1 hash of adapters, 2 count of changes
-- ARGV: name, its record before or '', its record after
-- Reply: 1 changed, 0 somebody else changed it in between
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[2])
return 1
