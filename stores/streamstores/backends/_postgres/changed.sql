-- $1 ids, $2 the known version of each, as text, or NULL
--
-- The streams whose version differs from the known one; NULL for a stream that is gone.
-- As text, because asyncpg knows no other array without asking the server for its type.
SELECT known.id, stream.version
FROM unnest($1::text[], $2::text[]::bigint[]) AS known (id, version)
LEFT JOIN {streams} AS stream ON stream.id = known.id
    AND (stream.expires_at IS NULL OR stream.expires_at > clock_timestamp())
WHERE stream.version IS DISTINCT FROM known.version
