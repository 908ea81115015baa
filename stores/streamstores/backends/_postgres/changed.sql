-- $1 ids, $2 the version that is known of each, as text, or NULL
--
-- Those whose version is another one now; NULL where there is no stream.
SELECT known.id, stream.version
FROM unnest($1::text[], $2::text[]::bigint[]) AS known (id, version)
LEFT JOIN {streams} AS stream ON stream.id = known.id
    AND (stream.expires_at IS NULL OR stream.expires_at > clock_timestamp())
WHERE stream.version IS DISTINCT FROM known.version
