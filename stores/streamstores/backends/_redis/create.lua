-- ARGV: is_cluster, version, state, ttl, expires_at, attributes, chunks…
-- Replies 1 and the new stream, or 0 and the living one that has the id.

local info = living()
if info then
  return reply('0', info)
end

local expires_at = ARGV[5]
if ARGV[4] ~= '' then
  expires_at = sliding_end(ARGV[4])
end

-- The records of an expired namesake, or of one whose info was evicted.
redis.call('UNLINK', KEYS[1], KEYS[2])
local tail = whole(add_records(0, 7))
local created_at = whole(now())
redis.call(
  'HSET', KEYS[1],
  'state', ARGV[3], 'tail', tail, 'version', ARGV[2], 'created_at', created_at,
  'ttl', ARGV[4], 'expires_at', expires_at, 'error', '', 'attributes', ARGV[6]
)
if has_passed(expires_at) then
  redis.call('UNLINK', KEYS[1], KEYS[2])
elseif expires_at ~= '' then
  end_at(expires_at)
end
notify(ARGV[1])
return reply('1', {ARGV[3], tail, ARGV[2], created_at, ARGV[4], expires_at, '', ARGV[6]})
