-- $1 id, $2 ttl, $3 expires_at
--
-- `due_at` is only ever moved to an earlier time here, and to a later one by a sweep: putting
-- the end off then costs no index entry.
WITH moment AS MATERIALIZED (
    SELECT coalesce(clock_timestamp() + $2::float8 * interval '1 second', $3) AS ends_at
)
UPDATE {streams} SET ttl = $2, expires_at = ends_at, due_at = least(due_at, ends_at)
FROM moment
WHERE id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING expires_at <= clock_timestamp() AS has_expired, {columns}
