"""What is done in Redis in one step, so that nobody comes between a look and a write.

All keys of a script are in one slot of a cluster. A value of a foreign type is no value.
"""

from typing import Final

LOOK_OR_LEASE: Final = """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and string.sub(value, 5, 20) ~= ARGV[3] then return {1, value} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {2, ''} end
return {3, ''}
"""
RENEWED: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
STORE: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""
GIVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('DEL', KEYS[1])
"""
PUT: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
"""
TAG_OF: Final = """
local token = redis.call('GET', KEYS[1])
if token then return token end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ARGV[1]
"""
KEEP: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
REPORT: Final = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[4])) do
  redis.call('HDEL', KEYS[1], gone)
  redis.call('ZREM', KEYS[2], gone)
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return redis.call('EXPIRE', KEYS[2], ARGV[5])
"""
ALIVE: Final = """
for at = 3, #ARGV do redis.call('HSET', KEYS[1], ARGV[at], ARGV[1]) end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
HEAT: Final = """
local now, most = tonumber(ARGV[1]), tonumber(ARGV[2])
for at = 4, #ARGV, 2 do redis.call('ZINCRBY', KEYS[1], ARGV[at], ARGV[at + 1]) end
if now - tonumber(redis.call('ZSCORE', KEYS[1], '') or 0) >= tonumber(ARGV[3]) then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 0.5)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -most - 2)
  redis.call('ZADD', KEYS[1], now, '')
end
return redis.call('EXPIRE', KEYS[1], 3600)
"""  # the nameless member says when the heat was halved last
