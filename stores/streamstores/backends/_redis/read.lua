-- Replies with an array: 1 and the stream; the lengths of the records from the offset on; and their
-- bytes, each record for itself, or all small ones together. An empty text if there is no stream.
--
-- Small records are put together to spare the client the parsing of many items; with big ones the
-- server would copy their bytes twice more. The script never asks for many entries at once, because
-- their size is known only once they are there.

local offset, max_bytes, max_records = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local SMALL_BYTES = 512

local info = living()
if not info then
  return ''
end

local position, left, room = offset, max_bytes, max_records
local tail = tonumber(info[TAIL])
local lengths, parts, last_id = {}, {}, nil
local count = 4

local function take(entry)
  local data = entry[2][2]
  if not last_id then
    local start = string.match(entry[1], '^%d+') - #data
    if start < position then
      data = string.sub(data, position - start + 1)
    end
  end
  -- The first record comes whole, however long it is: a page is never empty before the tail.
  if #data > left and last_id then
    return false
  end
  left = left - #data
  position = position + #data
  lengths[#lengths + 1] = #data
  parts[#parts + 1] = data
  last_id = entry[1]
  return true
end

local function take_some()
  -- Entries are named by their ends, so the record that holds this position is the first to end
  -- after it.
  local from = whole(position + 1) .. '-0'
  local entries = redis.call('XRANGE', RECORDS_KEY, from, '+', 'COUNT', math.min(count, room))
  if #entries == 0 then
    return false
  end
  local before = left
  for _, entry in ipairs(entries) do
    if not take(entry) then
      return false
    end
  end
  -- There is a gap: the last entry ends elsewhere than the bytes that were counted.
  if last_id ~= whole(position) .. '-0' then
    return false
  end
  room = room - #entries
  -- As many as will fit if the next records are like these, and at most four times as many as
  -- before: the next ones may be a thousand times as long.
  local mean = (before - left) / #entries
  count = math.min(count * 4, math.floor(left / mean) + 1)
  return true
end

while position < tail and left > 0 and room > 0 and take_some() do end

if last_id and last_id ~= whole(position) .. '-0' or not last_id and position < tail then
  return redis.error_reply('CORRUPT records are missing below ' .. whole(position))
end

if position - offset < SMALL_BYTES * #parts then
  parts = {table.concat(parts)}
end
return {reply('1', info), table.concat(lengths, ','), unpack(parts)}
