-- $1 id
--
-- Changes nothing, and yet its commit waits like that of a mutation: for the flush to the disk and
-- for the synchronous standbys. The lock of a row is written to the WAL, so everything that was
-- committed to the row before is then as safe. A statement that only reads does not wait.
SELECT key FROM {streams} WHERE id = $1 FOR UPDATE
