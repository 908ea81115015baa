-- Sets when the stream expires; both times empty: never.
-- Replies 1 and the stream, or 2 and the stream that this has ended; nothing if there is none.

local sender, in_cluster, _, ttl, expires_at = unpack(ARGV)

local info = living()
if not info then
  return ''
end

info[TTL], info[EXPIRES_AT] = ttl, expires_at
if ttl ~= '' then
  info[EXPIRES_AT] = sliding_end(ttl)
end
if has_passed(info[EXPIRES_AT]) then
  redis.call('UNLINK', INFO_KEY, RECORDS_KEY)
  notify(sender, in_cluster)
  return reply('2', info)
end

redis.call('HSET', INFO_KEY, 'ttl', info[TTL], 'expires_at', info[EXPIRES_AT])
if info[EXPIRES_AT] == '' then
  redis.call('PERSIST', INFO_KEY)
  redis.call('PERSIST', RECORDS_KEY)
else
  set_end(info[EXPIRES_AT])
end
return reply('1', info)
