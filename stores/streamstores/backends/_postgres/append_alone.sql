-- Returns the row after the mutation, or (applied = false) the row that refused it. The refusing
-- row is that of the statement's snapshot, so it can be older than what refused: the caller tries
-- again if the row shows no reason.
SELECT true AS applied, {columns} FROM applied
UNION ALL
SELECT false, {columns} FROM {streams}
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND NOT EXISTS (SELECT FROM applied)
