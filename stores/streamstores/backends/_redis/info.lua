-- Replies 1 and the stream, or nothing if there is none.

local info = living()
return info and reply('1', info) or ''
