-- KEYS are the info keys of many streams. Replies the version of each, empty if it is gone.

local versions = {}
for i, key in ipairs(KEYS) do
  -- What is no hash is no stream, and gives an error, which has no first item.
  versions[i] = redis.pcall('HMGET', key, 'version')[1] or ''
end
return table.concat(versions, ',')
