-- Keeps an image with its decision, unless that is forgotten; the oldest images leave, and all of them once none has
-- come for a whole retention.
-- KEYS: 1 images by decision, 2 decisions in their order, 3 decision hash
-- ARGV: 1 decision id, 2 image, 3 most images, 4 TTL (s)
if redis.call('EXISTS', KEYS[3]) == 1 and redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('RPUSH', KEYS[2], ARGV[1])
end
while redis.call('LLEN', KEYS[2]) > tonumber(ARGV[3]) do
  redis.call('HDEL', KEYS[1], redis.call('LPOP', KEYS[2]))
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return redis.call('LLEN', KEYS[2])
