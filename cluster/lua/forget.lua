-- Deletes what is kept of decisions besides their events: from then on no script appends anything about them.
-- KEYS: 1 deadlines, 2 screens
-- ARGV: 1 prefix of decision hashes, 2 prefix of observations of decisions, 3 prefix of observations of episodes,
--       4 prefix of episode lists, 5 prefix of courses, then for each decision: its id, its episode or ''
for i = 6, #ARGV, 2 do
  local id, episode = ARGV[i], ARGV[i + 1]
  redis.call('DEL', ARGV[1] .. id, ARGV[2] .. id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  if episode ~= '' then
    redis.call('LREM', ARGV[4] .. episode, 0, id)
    if redis.call('EXISTS', ARGV[4] .. episode) == 0 then
      redis.call('DEL', ARGV[3] .. episode, ARGV[5] .. episode)
    end
  end
end
