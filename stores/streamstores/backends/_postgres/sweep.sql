-- $1 how many rows to look at
--
-- Buries what has expired, and puts off what has moved its end. Rows that others hold are
-- left for the next time.
WITH due AS (
    SELECT key, expires_at <= statement_timestamp() AS has_ended
    FROM {streams}
    WHERE due_at <= statement_timestamp() AND id IS NOT NULL
    ORDER BY due_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), looked_at AS (
    UPDATE {streams} AS stream SET
        id = CASE WHEN has_ended THEN NULL ELSE id END,
        due_at = CASE WHEN has_ended THEN NULL ELSE expires_at END
    FROM due WHERE stream.key = due.key
    RETURNING id
)
SELECT count(*) AS seen, count(*) FILTER (WHERE id IS NULL) AS ended FROM looked_at
