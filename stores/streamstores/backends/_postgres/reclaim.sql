-- $1 how many dead streams, $2 how many records, at most
--
-- Removes records of dead streams, and the rows whose records are all gone. Nothing is ever
-- added to a dead stream: an append finds it by its id.
WITH dead AS (
    SELECT key FROM {streams} WHERE id IS NULL LIMIT $1
    FOR UPDATE SKIP LOCKED
), batch AS MATERIALIZED (
    SELECT stream_key, end_offset FROM dead JOIN {records} ON stream_key = key LIMIT $2
), removed AS (
    DELETE FROM {records} AS record USING batch
    WHERE record.stream_key = batch.stream_key AND record.end_offset = batch.end_offset
), emptied AS (
    DELETE FROM {streams} AS stream USING dead
    WHERE stream.key = dead.key AND (SELECT count(*) FROM batch) < $2
)
SELECT (SELECT count(*) FROM dead) = $1 OR (SELECT count(*) FROM batch) = $2 AS is_more
