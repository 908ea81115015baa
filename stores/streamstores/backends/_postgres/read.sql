-- $1 id, $2 offset, $3 max_bytes
--
-- Records tile the stream, so those that fit are the ones that end at or before
-- offset + max_bytes: one range of the index, plus the first record if it alone is longer.
--
-- Many small records come in one row, which is cheap to decode: their ends, 8 bytes each, and
-- their joined bytes. If the first is a big one they come in a row each, so that the client
-- takes one while the server fetches the next.
SELECT {columns}, piece.ends, piece.data
FROM {streams} AS stream LEFT JOIN LATERAL (
    SELECT greatest($2 + $3::bigint, end_offset) AS stop, end_offset - $2 > 8192 AS is_big
    FROM {records}
    WHERE stream_key = stream.key AND end_offset > $2::bigint
    ORDER BY end_offset LIMIT 1
) AS page ON true LEFT JOIN LATERAL (
    SELECT
        string_agg(int8send(end_offset), '' ORDER BY end_offset) AS ends,
        string_agg(data, '' ORDER BY end_offset) AS data
    FROM {records}
    WHERE stream_key = stream.key AND end_offset > $2 AND end_offset <= stop
    HAVING NOT is_big
    UNION ALL (
        SELECT int8send(end_offset), data FROM {records}
        WHERE stream_key = stream.key AND end_offset > $2 AND end_offset <= stop AND is_big
        ORDER BY end_offset
    )
) AS piece ON true
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
