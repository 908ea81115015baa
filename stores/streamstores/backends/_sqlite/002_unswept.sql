-- The records of streams that are gone wait here to be swept.
ALTER TABLE streamstores_trash RENAME TO streamstores_unswept;

-- `created_at` is the latest one that was given to any stream. The next stream gets a later one,
-- so that it tells a stream from its namesakes, whatever the clock says.
ALTER TABLE streamstores_changes ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
