-- $1 id
--
-- The id is free at once; `sweep_records` removes the records.
UPDATE {streams} SET id = NULL, due_at = NULL
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING key
