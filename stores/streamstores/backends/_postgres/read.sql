-- $1 id, $2 offset, $3 max_bytes
--
-- Records tile the stream, so those that fit are the ones that end at or before
-- offset + max_bytes: one range of the index, plus the first where it alone is longer.
SELECT {columns}, first.end_offset AS first_end, ARRAY(
    SELECT data FROM {records}
    WHERE stream_key = stream.key
        AND end_offset > $2 AND end_offset <= greatest($2 + $3::bigint, first.end_offset)
    ORDER BY end_offset
) AS chunks
FROM {streams} AS stream LEFT JOIN LATERAL (
    SELECT end_offset FROM {records}
    WHERE stream_key = stream.key AND end_offset > $2::bigint
    ORDER BY end_offset LIMIT 1
) AS first ON true
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
