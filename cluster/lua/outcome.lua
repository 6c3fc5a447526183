-- Appends what became of a decision, at most once a kind, and keeps it with the decision.
-- KEYS: 1 event stream, 2 decision hash, 3 deadlines
-- ARGV: 1 kind (the event's type), 2 event JSON, 3 deadline to drop: the decision's id, or '' for none
-- Reply: 1 appended, 0 known already or no such decision
if redis.call('EXISTS', KEYS[2]) == 0 or redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('XADD', KEYS[1], '*', 'type', ARGV[1], 'data', ARGV[2])
return 1
