-- ARGV: sender, at, version, state, error, attributes, chunks…
-- Replies 1 and the stream after the append; 0 and the stream as it stays, where nothing is to
-- be changed or the append is refused; nothing where there is no stream.

local info = living()
if not info then
  return ''
end

local at, version, new_state = ARGV[2], ARGV[3], ARGV[4]
local new_error, new_attributes = ARGV[5], ARGV[6]
local state, tail = info[STATE], info[TAIL]
local has_chunks = #ARGV > 6
local is_plain = new_state .. new_error .. new_attributes == ''

local ends = new_state == 'done' or new_state == 'error'
local is_allowed = state == 'streaming'
  or state == 'stopped' and (new_state == 'streaming' or ends and not has_chunks)
local changes_nothing =
  new_state == state and state ~= 'streaming' and not has_chunks and new_attributes == ''
if changes_nothing or not is_allowed
  or (at ~= '' and at ~= tail)
  or (version ~= '' and version ~= info[VERSION])
then
  return reply('0', info)
end

-- The records first: if their key holds something else, nothing has been changed yet.
info[TAIL] = whole(add_records(tonumber(tail), 7))
info[VERSION] = whole(info[VERSION] + 1)
if info[TTL] ~= '' then
  info[EXPIRES_AT] = sliding_end(info[TTL])
end
redis.call(
  'HSET', KEYS[1],
  'tail', info[TAIL], 'version', info[VERSION], 'expires_at', info[EXPIRES_AT]
)
if not is_plain then
  info[STATE] = new_state ~= '' and new_state or state
  info[ERROR] = new_error ~= '' and new_error or info[ERROR]
  info[ATTRIBUTES] = new_attributes ~= '' and new_attributes or info[ATTRIBUTES]
  redis.call(
    'HSET', KEYS[1],
    'state', info[STATE], 'error', info[ERROR], 'attributes', info[ATTRIBUTES]
  )
end
if info[TTL] ~= '' or (info[EXPIRES_AT] ~= '' and tail == '0') then
  end_at(info[EXPIRES_AT])
end

-- All that a plain append has changed, so that followers elsewhere need not read: the old tail, ttl
-- and expires_at, the lengths of the records, and their bytes. Where nobody follows, it would be a
-- third of the time of an append of 4 KiB; so who follows is counted first.
local function news()
  if not is_plain or info[TAIL] - tail > 4096 then
    return nil
  end
  local count = is_sharded(ARGV[1]) and 'SHARDNUMSUB' or 'NUMSUB'
  if redis.pcall('PUBSUB', count, KEYS[1])[2] == 0 then
    return nil
  end
  local lengths = {}
  for i = 7, #ARGV do
    lengths[i - 6] = #ARGV[i]
  end
  return '\n' .. tail .. '\n' .. info[TTL] .. '\n' .. info[EXPIRES_AT] .. '\n'
    .. table.concat(lengths, ',') .. '\n' .. table.concat(ARGV, '', 7)
end

notify(ARGV[1], info[VERSION], news())
return reply('1', info)
