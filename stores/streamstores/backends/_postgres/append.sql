-- $1 id, $2 size, $3 at, $4 version, $5 state, $6 error, $7 attributes,
-- $8 where each chunk begins, $9 its length, as text, $10 all chunks joined
--
-- The beginning of two statements: append_alone.sql and append_grouped.sql are their ends. UPDATE
-- waits for the row's lock and then tests its newest version.
WITH applied AS (
    UPDATE {streams} SET
        state = coalesce($5, state),
        tail = tail + $2::bigint,
        version = version + 1,
        error = coalesce($6, error),
        attributes = coalesce($7, attributes),
        updated_at = clock_timestamp(),
        expires_at = CASE
            WHEN ttl IS NULL THEN expires_at
            ELSE clock_timestamp() + ttl * interval '1 second'
        END
    -- Not now(), which is when the transaction began: this may have waited for the lock of the
    -- row, and the stream have expired meanwhile.
    WHERE {row} AND (expires_at IS NULL OR expires_at > clock_timestamp())
        AND ($3::bigint IS NULL OR tail = $3)
        AND ($4::bigint IS NULL OR version = $4)
        AND (
            state = 'streaming'
            OR state = 'stopped' AND $5 = 'streaming'
            OR state = 'stopped' AND $5 IN ('done', 'error') AND $2 = 0
        )
    RETURNING key, {columns}
), added AS (
    INSERT INTO {records} (stream_key, end_offset, data)
    SELECT key, tail - $2 + start + size, substring($10::bytea FROM start + 1 FOR size)
    FROM (
        SELECT key, tail, unnest($8::text[]::int[]) AS start, unnest($9::text[]::int[]) AS size
        FROM applied
    ) AS chunk
)
