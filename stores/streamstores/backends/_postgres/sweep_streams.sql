-- $1 how many rows to look at
--
-- Takes the id from streams that have expired, and puts off those whose end has moved. Rows
-- that another transaction holds are left for the next sweep.
WITH due AS (
    SELECT key, expires_at <= statement_timestamp() AS has_expired
    FROM {streams}
    -- Not clock_timestamp(), which is volatile, so that no index could be used.
    WHERE due_at <= statement_timestamp() AND id IS NOT NULL
    ORDER BY due_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), swept AS (
    UPDATE {streams} AS stream SET
        id = CASE WHEN has_expired THEN NULL ELSE id END,
        due_at = CASE WHEN has_expired THEN NULL ELSE expires_at END
    FROM due WHERE stream.key = due.key
    RETURNING id
)
SELECT count(*) AS seen, count(*) FILTER (WHERE id IS NULL) AS expired FROM swept
