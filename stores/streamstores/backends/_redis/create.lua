-- ARGV: sender, version, state, ttl, expires_at, attributes, chunks…
-- Replies 1 and the new stream, or 0 and the living one that has the id.

local info = living()
if info then
  return reply('0', info)
end

local expires_at = ARGV[5]
if ARGV[4] ~= '' then
  expires_at = sliding_end(ARGV[4])
end

local tail = 0
for i = 7, #ARGV do
  tail = tail + #ARGV[i]
end
tail = whole(tail)
local created_at = whole(now())

-- First what a full server refuses, so that it refuses before anything has changed.
redis.call(
  'HSET', KEYS[1],
  'state', ARGV[3], 'tail', tail, 'version', ARGV[2], 'created_at', created_at,
  'ttl', ARGV[4], 'expires_at', expires_at, 'error', '', 'attributes', ARGV[6]
)
-- The rest of an expired namesake, or of one whose info was evicted.
redis.call('PERSIST', KEYS[1])
redis.call('UNLINK', KEYS[2])
add_records(0, 7)
if has_passed(expires_at) then
  redis.call('UNLINK', KEYS[1], KEYS[2])
elseif expires_at ~= '' then
  end_at(expires_at)
end
notify(ARGV[1])
return reply('1', {ARGV[3], tail, ARGV[2], created_at, ARGV[4], expires_at, '', ARGV[6]})
