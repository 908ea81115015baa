-- $1 id
-- A stream is gone at its time, whether or not a sweep has been there.
SELECT {columns} FROM {streams}
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
