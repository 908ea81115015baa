-- ARGV: sender, ttl, expires_at; both empty: never.
-- Replies 1 and the stream, or 2 and the stream that this has ended; nothing where there is none.

local info = living()
if not info then
  return ''
end

info[TTL], info[EXPIRES_AT] = ARGV[2], ARGV[3]
if ARGV[2] ~= '' then
  info[EXPIRES_AT] = sliding_end(ARGV[2])
end
if has_passed(info[EXPIRES_AT]) then
  redis.call('UNLINK', KEYS[1], KEYS[2])
  notify(ARGV[1])
  return reply('2', info)
end

redis.call('HSET', KEYS[1], 'ttl', info[TTL], 'expires_at', info[EXPIRES_AT])
if info[EXPIRES_AT] == '' then
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
else
  end_at(info[EXPIRES_AT])
end
return reply('1', info)
