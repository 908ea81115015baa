-- $1 id, $2 state, $3 size, $4 version, $5 attributes, $6 ttl, $7 expires_at,
-- $8 where each chunk begins, $9 its length, as text, $10 all chunks joined
--
-- Returns the new row, or the row of the living stream that has the id. Returns no row if
-- another create committed after this statement took its snapshot: the caller tries again.
WITH replaced AS (
    UPDATE {streams} SET id = NULL, due_at = NULL
    WHERE id = $1 AND expires_at <= clock_timestamp()
    RETURNING created_at
), moment AS MATERIALIZED (
    -- Later than its expired namesake, even if the clock was set back: `created_at` tells
    -- them apart. Counting also makes the UPDATE above run before the INSERT below.
    SELECT greatest(clock_timestamp(), max(created_at) + interval '1 microsecond') AS now
    FROM replaced
), created AS (
    INSERT INTO {streams} (
        id, state, tail, version, attributes, created_at, updated_at, ttl, expires_at, due_at
    )
    SELECT $1, $2, $3, $4, $5, now, now, $6::float8, ends_at, ends_at
    FROM moment, coalesce(now + $6::float8 * interval '1 second', $7) AS ends_at
    ON CONFLICT (id) DO NOTHING
    RETURNING key, {columns}
), added AS (
    INSERT INTO {records} (stream_key, end_offset, data)
    SELECT key, start + size, substring($10::bytea FROM start + 1 FOR size)
    FROM (
        SELECT key, unnest($8::text[]::int[]) AS start, unnest($9::text[]::int[]) AS size
        FROM created
    ) AS chunk
)
SELECT true AS applied, {columns} FROM created
UNION ALL
SELECT false, {columns} FROM {streams}
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND NOT EXISTS (SELECT FROM created)
