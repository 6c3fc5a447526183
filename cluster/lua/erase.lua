-- Deletes events that are still hot, and counts them: what was ever appended is what is here and what is gone.
-- KEYS: 1 event stream, 2 learner hash, 3 stream of deferred events
-- ARGV: stream ids
-- Reply: how many were deleted
local erased = redis.call('XDEL', KEYS[1], unpack(ARGV))
redis.call('HINCRBY', KEYS[2], 'trimmed', erased)
return erased + redis.call('XDEL', KEYS[3], unpack(ARGV))
