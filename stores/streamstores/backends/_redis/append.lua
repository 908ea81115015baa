-- Replies 1 and the stream after the append; 0 and the stream as it stays, if nothing is to be
-- changed or the append is refused; nothing if there is no stream.

local sender, in_cluster, is_confirmed, at, version = unpack(ARGV, 1, 5)
local new_state, new_error, new_attributes = unpack(ARGV, 6, 8)
local FIRST_CHUNK = 9

local info = living()
if not info then
  return ''
end

local state, tail = info[STATE], info[TAIL]
local has_chunks = #ARGV >= FIRST_CHUNK
local is_plain = new_state .. new_error .. new_attributes == ''

local ends = new_state == 'done' or new_state == 'error'
local is_allowed = state == 'streaming'
  or state == 'stopped' and (new_state == 'streaming' or ends and not has_chunks)
local changes_nothing =
  new_state == state and state ~= 'streaming' and not has_chunks and new_attributes == ''
if changes_nothing and is_confirmed == '1' then
  -- Since version 7 a server confirms what this connection has written, and on a new connection that
  -- is nothing. Writing the same value stands in the replication stream behind the final state.
  redis.call('HSET', INFO_KEY, 'version', info[VERSION])
end
if changes_nothing or not is_allowed
  or (at ~= '' and at ~= tail)
  or (version ~= '' and version ~= info[VERSION])
then
  return reply('0', info)
end

-- The records first: if their key holds something else, nothing has been changed yet.
info[TAIL] = whole(add_records(tonumber(tail), FIRST_CHUNK))
info[VERSION] = whole(info[VERSION] + 1)
info[UPDATED_AT] = whole(now())
if info[TTL] ~= '' then
  info[EXPIRES_AT] = sliding_end(info[TTL])
end
redis.call(
  'HSET', INFO_KEY,
  'tail', info[TAIL], 'version', info[VERSION], 'updated_at', info[UPDATED_AT],
  'expires_at', info[EXPIRES_AT]
)
if not is_plain then
  info[STATE] = new_state ~= '' and new_state or state
  info[ERROR] = new_error ~= '' and new_error or info[ERROR]
  info[ATTRIBUTES] = new_attributes ~= '' and new_attributes or info[ATTRIBUTES]
  redis.call(
    'HSET', INFO_KEY,
    'state', info[STATE], 'error', info[ERROR], 'attributes', info[ATTRIBUTES]
  )
end
-- The first record makes the key of the records, which has no time to expire yet.
if info[TTL] ~= '' or (info[EXPIRES_AT] ~= '' and tail == '0') then
  set_end(info[EXPIRES_AT])
end

-- All that a plain append has changed, so that followers elsewhere need not read: the old tail,
-- updated_at, ttl and expires_at, the lengths of the records, and their bytes. For an append of 4 KiB without any
-- subscriber it would be a third of the script's time, so the subscribers are counted first.
local function news()
  if not is_plain or info[TAIL] - tail > 4096 then
    return nil
  end
  local count = is_sharded(in_cluster) and 'SHARDNUMSUB' or 'NUMSUB'
  -- A user who may not run PUBSUB gets an error here, which has no second item: the news is
  -- then sent.
  if redis.pcall('PUBSUB', count, INFO_KEY)[2] == 0 then
    return nil
  end
  local lengths = {}
  for i = FIRST_CHUNK, #ARGV do
    lengths[i - FIRST_CHUNK + 1] = #ARGV[i]
  end
  local times = info[UPDATED_AT] .. '\n' .. info[TTL] .. '\n' .. info[EXPIRES_AT]
  return '\n' .. tail .. '\n' .. times .. '\n'
    .. table.concat(lengths, ',') .. '\n' .. table.concat(ARGV, '', FIRST_CHUNK)
end

notify(sender, in_cluster, info[VERSION], news())
return reply('1', info)
