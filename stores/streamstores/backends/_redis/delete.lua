-- Replies 1, or nothing if there is no stream.

local sender, in_cluster = unpack(ARGV)

if not living() then
  return ''
end
-- Not DEL, which frees a long stream's memory at once while every other client waits.
redis.call('UNLINK', INFO_KEY, RECORDS_KEY)
notify(sender, in_cluster)
return '1'
