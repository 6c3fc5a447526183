-- Everything that was committed after a version, as of one moment.
-- KEYS: 1 learner hash, 2 arms (name -> version)
-- ARGV: 1 version, 2 prefix of arm blobs
-- Reply: {version, position, router, signature, rebuilding until, events folded, names of all arms,
--         names of the changed ones, their blobs}
local state = redis.call('HMGET', KEYS[1], 'version', 'position', 'router', 'signature', 'rebuilding', 'folded')
local all, changed, blobs = redis.call('HGETALL', KEYS[2]), {}, {}
local names = {}
for i = 1, #all, 2 do
  names[#names + 1] = all[i]
  if tonumber(all[i + 1]) > tonumber(ARGV[1]) then
    changed[#changed + 1] = all[i]
    blobs[#blobs + 1] = redis.call('GET', ARGV[2] .. all[i])
  end
end
for i = 1, 6 do
  state[i] = state[i] or ''
end
return {state[1], state[2], state[3], state[4], state[5], state[6], names, changed, blobs}
