-- $1 how many streams, $2 how many records, at most
--
-- Removes records of streams that are gone, and the rows of those that have no records left.
-- Nothing is ever added to a stream that is gone: an append finds a stream by its id.
WITH gone AS (
    SELECT key FROM {streams} WHERE id IS NULL LIMIT $1
    FOR UPDATE SKIP LOCKED
), batch AS MATERIALIZED (
    SELECT stream_key, end_offset FROM gone JOIN {records} ON stream_key = key LIMIT $2
), removed AS (
    DELETE FROM {records} AS record USING batch
    WHERE record.stream_key = batch.stream_key AND record.end_offset = batch.end_offset
), emptied AS (
    DELETE FROM {streams} AS stream USING gone
    WHERE stream.key = gone.key AND (SELECT count(*) FROM batch) < $2
)
SELECT (SELECT count(*) FROM gone) = $1 OR (SELECT count(*) FROM batch) = $2 AS is_more
