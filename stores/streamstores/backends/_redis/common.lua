-- Stands before every script. KEYS[1] is the info of a stream, a hash; KEYS[2] its records, a
-- Redis stream whose entry ids are <end offset>-0. The name of KEYS[1] is also the channel of
-- its notices. A script runs whole and alone, which is what makes each operation one step.
--
-- Numbers are doubles: exact below 2^53, where offsets, versions and computed times stay. Times
-- are microseconds since 1970. An empty text stands for None.

local STATE, TAIL, VERSION, CREATED_AT, TTL, EXPIRES_AT, ERROR, ATTRIBUTES = 1, 2, 3, 4, 5, 6, 7, 8

local function whole(number)
  return string.format('%.0f', number)
end

local clock

local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000000 + time[2]
  end
  return clock
end

local function has_passed(expires_at)
  return expires_at ~= '' and tonumber(expires_at) <= now()
end

-- The fields of the stream; nil where there is none, or none any more: a key may outlive its
-- time, on a replica that was promoted and between two beats of the server's clock.
local function living()
  local info = redis.call(
    'HMGET', KEYS[1],
    'state', 'tail', 'version', 'created_at', 'ttl', 'expires_at', 'error', 'attributes'
  )
  if not info[STATE] or has_passed(info[EXPIRES_AT]) then
    return nil
  end
  return info
end

local function reply(code, info)
  return code .. '\n' .. table.concat(info, '\n')
end

-- Whether notices go through sharded channels: in a cluster, where a sender begins with c, from
-- version 7 on.
local function is_sharded(sender)
  return string.sub(sender, 1, 1) == 'c' and redis.REDIS_VERSION_NUM
end

-- Tells the followers, and by whom: who waits for the reply to this very request needs no notice.
-- Without a version the stream began or ended, so everybody looks; `news` spares them a look.
local function notify(sender, version, news)
  local notice = (version or '') .. ' ' .. sender .. (news or '')
  redis.call(is_sharded(sender) and 'SPUBLISH' or 'PUBLISH', KEYS[1], notice)
end

local function end_at(expires_at)
  local milliseconds = whole(math.ceil(expires_at / 1000))
  redis.call('PEXPIREAT', KEYS[1], milliseconds)
  redis.call('PEXPIREAT', KEYS[2], milliseconds)
end

local function sliding_end(ttl)
  return whole(math.floor(now() + ttl * 1000000))
end

-- Appends one entry for each of ARGV[first] and after; the new tail.
local function add_records(tail, first)
  for i = first, #ARGV do
    tail = tail + #ARGV[i]
    redis.call('XADD', KEYS[2], whole(tail) .. '-0', 'd', ARGV[i])
  end
  return tail
end
