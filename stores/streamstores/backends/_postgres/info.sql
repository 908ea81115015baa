-- $1 id
SELECT {columns} FROM {streams}
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
