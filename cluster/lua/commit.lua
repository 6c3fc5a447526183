-- Writes what the Learner folded, if it is still the Learner and nobody wrote in between.
-- KEYS: 1 learner hash, 2 arms (name -> version), 3 versions stream, 4 event stream, 5 stream of deferred events
-- ARGV: 1 epoch, 2 version that the changes build on, 3 position, 4 time, 5 router, 6 prefix of arm blobs,
--       7 prefix of decision hashes, 8 changed arms, 9 removed arms, 10 decision ids (JSON lists), 11 signature of the
--       fold, 12 position that a fold from the beginning has to reach or '', 13 events folded of all ever appended,
--       14 stream ids of events that wait beside the log from now on (JSON list), 15 type and data of each event to
--       append (JSON list), 16.. a blob an arm, then a ledger row a decision
-- Reply: {1, new version}, or {0, stored epoch, stored version} when refused
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'position')
local epoch, version = tonumber(stored[1] or 0), tonumber(stored[2] or 0)
local expected, new = tonumber(ARGV[2]), tonumber(ARGV[2]) + 1
if epoch == tonumber(ARGV[1]) and version == new and stored[3] == ARGV[3] then
  return {1, new} -- the same commit, sent again
end
if epoch ~= tonumber(ARGV[1]) or version ~= expected then
  return {0, epoch, version}
end

local changed, removed, ids = cjson.decode(ARGV[8]), cjson.decode(ARGV[9]), cjson.decode(ARGV[10])
for _, arm in ipairs(removed) do
  redis.call('DEL', ARGV[6] .. arm)
  redis.call('HDEL', KEYS[2], arm)
end
for i, arm in ipairs(changed) do
  redis.call('SET', ARGV[6] .. arm, ARGV[15 + i])
  redis.call('HSET', KEYS[2], arm, new)
end
for i, id in ipairs(ids) do
  -- An expired decision must not come back as a hash that never expires.
  if redis.call('EXISTS', ARGV[7] .. id) == 1 then
    redis.call('HSET', ARGV[7] .. id, 'ledger', ARGV[15 + #changed + i])
  end
end
for _, id in ipairs(cjson.decode(ARGV[14])) do
  local entry = redis.call('XRANGE', KEYS[4], id, id)[1]
  if entry then
    redis.call('XADD', KEYS[5], id, unpack(entry[2]))
    redis.call('XDEL', KEYS[4], id)
    redis.call('HINCRBY', KEYS[1], 'trimmed', 1)
  end
end
local said = cjson.decode(ARGV[15])
for i = 1, #said, 2 do
  redis.call('XADD', KEYS[4], '*', 'type', said[i], 'data', said[i + 1])
end
redis.call('HSET', KEYS[1], 'version', new, 'position', ARGV[3], 'time', ARGV[4], 'router', ARGV[5],
  'signature', ARGV[11], 'rebuilding', ARGV[12], 'folded', ARGV[13])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*',
  'version', new, 'arms', ARGV[8], 'removed', ARGV[9], 'position', ARGV[3])
return {1, new}
