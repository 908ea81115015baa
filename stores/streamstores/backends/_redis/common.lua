-- Stands before every script. KEYS[1] is the info of a stream, a hash; KEYS[2] its records, a
-- Redis stream whose entry ids are <end offset>-0. The name of KEYS[1] is also the channel of its
-- notices. A script runs whole and alone, so each operation is one step.
--
-- Numbers are doubles, exact below 2^53; offsets, versions and computed times stay below. Times are
-- microseconds since 1970. An empty text stands for None.
--
-- Every script that changes a stream has three arguments first: `sender`, the name of the connection
-- that asks; `in_cluster`, '1' in a cluster and '0' elsewhere; and `is_confirmed`, '1' if the caller
-- waits for a confirmation (WAIT, WAITAOF) afterwards.

local INFO_KEY, RECORDS_KEY = KEYS[1], KEYS[2]
local STATE, TAIL, VERSION, CREATED_AT, UPDATED_AT, TTL, EXPIRES_AT = 1, 2, 3, 4, 5, 6, 7
local ERROR, ATTRIBUTES = 8, 9

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

-- The fields of the stream; nil if there is none, or if it has expired: a key may outlive its time,
-- on a promoted replica and between two beats of the server's clock.
local function living()
  local info = redis.call(
    'HMGET', INFO_KEY,
    'state', 'tail', 'version', 'created_at', 'updated_at', 'ttl', 'expires_at', 'error',
    'attributes'
  )
  if not info[STATE] or has_passed(info[EXPIRES_AT]) then
    return nil
  end
  return info
end

local function reply(code, info)
  return code .. '\n' .. table.concat(info, '\n')
end

-- Whether notices go through sharded channels: in a cluster from version 7 on.
local function is_sharded(in_cluster)
  return in_cluster == '1' and redis.REDIS_VERSION_NUM
end

-- Tells the followers, and names the sender: the store that waits for the reply to this very request
-- needs no notice. Without a version the stream began or is gone, so every follower looks; `news`
-- spares them the look.
local function notify(sender, in_cluster, version, news)
  local notice = (version or '') .. ' ' .. sender .. (news or '')
  redis.call(is_sharded(in_cluster) and 'SPUBLISH' or 'PUBLISH', INFO_KEY, notice)
end

local function set_end(expires_at)
  -- Rounded up: the keys must not vanish before the end that `living` judges to the
  -- microsecond.
  local milliseconds = whole(math.ceil(expires_at / 1000))
  redis.call('PEXPIREAT', INFO_KEY, milliseconds)
  redis.call('PEXPIREAT', RECORDS_KEY, milliseconds)
end

local function sliding_end(ttl)
  return whole(math.floor(now() + ttl * 1000000))
end

-- Adds a record for each argument from number `first` on; returns the new tail.
local function add_records(tail, first)
  for i = first, #ARGV do
    tail = tail + #ARGV[i]
    redis.call('XADD', RECORDS_KEY, whole(tail) .. '-0', 'd', ARGV[i])
  end
  return tail
end
