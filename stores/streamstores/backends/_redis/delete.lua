-- ARGV: sender. Replies 1, or nothing where there is no stream.

if not living() then
  return ''
end
redis.call('UNLINK', KEYS[1], KEYS[2])
notify(ARGV[1])
return '1'
