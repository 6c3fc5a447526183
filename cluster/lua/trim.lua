-- Drops events that lie in the archive, and counts them: what was ever appended is what is here and what is gone.
-- KEYS: 1 event stream, 2 learner hash
-- ARGV: 1 the least stream id that stays, 2 the last one that is sealed
-- Reply: how many were dropped
local dropped = redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
redis.call('HINCRBY', KEYS[2], 'trimmed', dropped)
redis.call('HSET', KEYS[2], 'sealed', ARGV[2])
return dropped
