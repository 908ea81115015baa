-- $1 first id that can have the prefix, $2 last one, $3 last id of the page before, $4 page size
-- Ids sort by their bytes, so a prefix is one range of the index. A page begins after an id and
-- not at an OFFSET, which would skip and repeat streams while others come and go.
SELECT id, {columns} FROM {streams}
WHERE id >= $1 AND id <= $2 AND id > $3
    AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY id LIMIT $4
