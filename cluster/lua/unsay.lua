-- Takes a source's word back, as if it had never been said: the decisions wait for their outcome again.
-- KEYS: 1 deadlines, 2 observations of the target
-- ARGV: 1 prefix of decision hashes, 2 whose word, 3.. decisions that the word was about
redis.call('HDEL', KEYS[2], ARGV[2])
for i = 3, #ARGV do
  local deadline = redis.call('HGET', ARGV[1] .. ARGV[i], 'deadline')
  if deadline then
    redis.call('ZADD', KEYS[1], deadline, ARGV[i])
  end
end
