-- Replies 1 and the new stream, or 0 and the living one that has the id.

local sender, in_cluster, _, version, state, ttl, expires_at, attributes = unpack(ARGV, 1, 8)
local FIRST_CHUNK = 9

local info = living()
if info then
  return reply('0', info)
end

if ttl ~= '' then
  expires_at = sliding_end(ttl)
end

local tail = 0
for i = FIRST_CHUNK, #ARGV do
  tail = tail + #ARGV[i]
end
tail = whole(tail)
local created_at = whole(now())

-- First what a full server refuses, so that it refuses before anything has changed.
redis.call(
  'HSET', INFO_KEY,
  'state', state, 'tail', tail, 'version', version, 'created_at', created_at,
  'updated_at', created_at, 'ttl', ttl, 'expires_at', expires_at, 'error', '', 'attributes', attributes
)
-- The rest of an expired namesake, or of one whose info was evicted.
redis.call('PERSIST', INFO_KEY)
redis.call('UNLINK', RECORDS_KEY)
add_records(0, FIRST_CHUNK)
if has_passed(expires_at) then
  redis.call('UNLINK', INFO_KEY, RECORDS_KEY)
elseif expires_at ~= '' then
  set_end(expires_at)
end
notify(sender, in_cluster)
return reply(
  '1', {state, tail, version, created_at, created_at, ttl, expires_at, '', attributes}
)
