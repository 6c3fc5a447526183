-- Records a decision once: a known request key, or the same decision sent again, writes nothing.
-- KEYS: 1 event stream, 2 decision hash, 3 deadlines, 4 request key or '', 5 episode list or '', 6 episode's course
-- ARGV: 1 decision id, 2 its time, 3 its deadline (unix s), 4 TTL of decision and episode, 5 TTL of the request key (s),
--       6 '1' if a known request key is given to this decision, 7 stream id of the episode's last decision that this one
--       was taken after, or '', 8 arm, 9 step of the episode (JSON), 10 tenant, 11.. stream
--       fields
-- Reply: {1, stream id}, {0, stream id, stream fields} of the earlier decision with this request key (without fields if
--        it is no longer hot), or {2} when the episode has gone on meanwhile
local own = redis.call('HGET', KEYS[2], 'stream_id')
if own then
  return {1, own}
end
if KEYS[4] ~= '' and ARGV[6] ~= '1' then
  local earlier = redis.call('GET', KEYS[4])
  if earlier then
    local entry = redis.call('XRANGE', KEYS[1], earlier, earlier)[1]
    return entry and {0, earlier, entry[2]} or {0, earlier}
  end
end
if ARGV[9] ~= '' and (redis.call('HGET', KEYS[6], 'stream_id') or '') ~= ARGV[7] then
  return {2}
end
local stream_id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 11))
redis.call('HSET', KEYS[2], 'stream_id', stream_id, 'time', ARGV[2], 'deadline', ARGV[3], 'tenant', ARGV[10])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
if KEYS[4] ~= '' then
  redis.call('SET', KEYS[4], stream_id, 'EX', ARGV[5])
end
if KEYS[5] ~= '' then
  redis.call('HSET', KEYS[2], 'episode', KEYS[5])
  redis.call('RPUSH', KEYS[5], ARGV[1])
  redis.call('EXPIRE', KEYS[5], ARGV[4])
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[6], 'stream_id', stream_id, 'arm', ARGV[8], 'step', ARGV[9])
  redis.call('EXPIRE', KEYS[6], ARGV[4])
end
return {1, stream_id}
