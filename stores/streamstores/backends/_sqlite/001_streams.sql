-- One row for each stream. `key` is never used again (AUTOINCREMENT), so that the records of a
-- deleted stream cannot show up in its namesake. `changed` is explained at
-- `streamstores_changes`. Times are microseconds since 1970, `ttl` is seconds.
CREATE TABLE streamstores_streams (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    state      TEXT    NOT NULL,
    tail       INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    error      TEXT,
    attributes TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ttl        REAL,
    expires_at INTEGER,
    changed    INTEGER NOT NULL
);

CREATE INDEX streamstores_streams_changed ON streamstores_streams (changed);

CREATE INDEX streamstores_streams_expires_at ON streamstores_streams (expires_at)
    WHERE expires_at IS NOT NULL;

-- Keyed by where a record ends, so that what follows an offset is a range of the key. The data
-- of a large record is kept apart under the number `large`, and `data` is NULL: to compare a key,
-- SQLite copies the whole row if that does not fit a page, so a large row would make every
-- append slower.
CREATE TABLE streamstores_records (
    stream INTEGER NOT NULL,
    "end"  INTEGER NOT NULL,
    data   BLOB,
    large  INTEGER,
    PRIMARY KEY (stream, "end")
) WITHOUT ROWID;

CREATE TABLE streamstores_large (
    number INTEGER PRIMARY KEY,
    data   BLOB NOT NULL
);

-- Streams that are gone and whose records are still to be swept.
CREATE TABLE streamstores_unswept (
    stream INTEGER PRIMARY KEY
);

-- One row, which a watcher in another process reads. A stream that changes takes the highest
-- `number` as its `changed`, unless it has that already. So busy streams share a number, and
-- their changes touch neither this row nor the index. When 64 streams share it, it grows.
-- `ended` grows with each stream that is deleted or begins anew: that leaves no row to find.
-- `created_at` is the latest that was given to any stream. The next stream gets a later time, so
-- that it tells a stream from its namesakes, whatever the clock says.
CREATE TABLE streamstores_changes (
    number     INTEGER NOT NULL,
    ended      INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

INSERT INTO streamstores_changes VALUES (1, 0, 0);
