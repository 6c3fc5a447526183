-- Appends deferred events again, if everything before them is folded: so no later word on the same decision overtakes one.
-- KEYS: 1 event stream, 2 stream of deferred events
-- ARGV: 1 position up to which is folded, 2.. their stream ids, oldest first
-- Reply: how many were appended
if #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1) > 0 then
  return 0
end
local appended = 0
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if entry then
    redis.call('XADD', KEYS[1], '*', unpack(entry[2]))
    redis.call('XDEL', KEYS[2], ARGV[i])
    appended = appended + 1
  end
end
return appended
