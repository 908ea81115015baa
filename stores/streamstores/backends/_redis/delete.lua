-- Replies 1, or nothing if there is no stream.

local sender, in_cluster = unpack(ARGV)

if not living() then
  return ''
end
redis.call('UNLINK', INFO_KEY, RECORDS_KEY)
notify(sender, in_cluster)
return '1'
