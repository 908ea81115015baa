-- ARGV: sender, at, version, state, error, attributes, chunks…
-- Replies 1 and the stream after the append; 0 and the stream as it stays, where nothing is to
-- be changed or the append is refused; nothing where there is no stream.

local info = living()
if not info then
  return ''
end

local at, version, new_state, attributes = ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local state, tail = info[STATE], info[TAIL]
local has_chunks = #ARGV > 6

local function is_allowed()
  if state == 'streaming' then
    return true
  end
  if state ~= 'stopped' then
    return false
  end
  local ends = new_state == 'done' or new_state == 'error'
  return new_state == 'streaming' or (ends and not has_chunks)
end

local changes_nothing =
  new_state == state and state ~= 'streaming' and not has_chunks and attributes == ''
if changes_nothing or not is_allowed()
  or (at ~= '' and at ~= tail)
  or (version ~= '' and version ~= info[VERSION])
then
  return reply('0', info)
end

-- The records first: if their key holds something else, nothing has been changed yet.
info[TAIL] = whole(add_records(tonumber(tail), 7))
info[VERSION] = whole(info[VERSION] + 1)
local changes = {'tail', info[TAIL], 'version', info[VERSION]}

local function change(field, index, value)
  if value ~= '' then
    info[index] = value
    changes[#changes + 1] = field
    changes[#changes + 1] = value
  end
end

change('state', STATE, new_state)
change('error', ERROR, ARGV[5])
change('attributes', ATTRIBUTES, attributes)
if info[TTL] ~= '' then
  change('expires_at', EXPIRES_AT, sliding_end(info[TTL]))
end
redis.call('HSET', KEYS[1], unpack(changes))
if info[TTL] ~= '' or (info[EXPIRES_AT] ~= '' and tail == '0') then
  end_at(info[EXPIRES_AT])
end

-- All that a plain append has changed, for followers elsewhere: the old tail, ttl and expires_at,
-- the lengths of the records, and their bytes. With more than 4 KiB it would cost the append more
-- than a tenth, where nobody follows; then they read.
local news
if new_state .. ARGV[5] .. attributes == '' and info[TAIL] - tail <= 4096 then
  local lengths = {}
  for i = 7, #ARGV do
    lengths[i - 6] = #ARGV[i]
  end
  news = table.concat({
    '', tail, info[TTL], info[EXPIRES_AT], table.concat(lengths, ','), table.concat(ARGV, '', 7),
  }, '\n')
end
notify(ARGV[1], info[VERSION], news)
return reply('1', info)
