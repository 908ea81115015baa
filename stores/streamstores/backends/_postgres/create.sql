-- $1 id, $2 state, $3 size, $4 version, $5 attributes, $6 ttl, $7 expires_at,
-- $8 where each chunk begins, $9 how long it is, as text, $10 the chunks one after another
--
-- The new row, or the living one that has the id; no row where another create committed
-- after this statement began: ask again.
WITH buried AS (
    UPDATE {streams} SET id = NULL, due_at = NULL
    WHERE id = $1 AND expires_at <= clock_timestamp()
    RETURNING key
), moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), born AS (
    INSERT INTO {streams} (
        id, state, tail, version, attributes, created_at, ttl, expires_at, due_at
    )
    SELECT $1, $2, $3, $4, $5, now, $6::float8, ends_at, ends_at
    FROM moment, coalesce(now + $6::float8 * interval '1 second', $7) AS ends_at
    WHERE (SELECT count(*) FROM buried) <= 1  -- which puts the burial before the birth
    ON CONFLICT (id) DO NOTHING
    RETURNING key, {columns}
), added AS (
    INSERT INTO {records} (stream_key, end_offset, data)
    SELECT key, start + size, substring($10::bytea FROM start + 1 FOR size)
    FROM (
        SELECT key, unnest($8::text[]::int[]) AS start, unnest($9::text[]::int[]) AS size
        FROM born
    ) AS chunk
)
SELECT true AS applied, {columns} FROM born
UNION ALL
SELECT false, {columns} FROM {streams}
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND NOT EXISTS (SELECT FROM born)
