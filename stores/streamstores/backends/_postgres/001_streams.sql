-- One row for each stream. `key` identifies one stream for ever: records carry it, so those of a
-- deleted stream can never appear in a namesake. A stream that is gone keeps its row, with a
-- NULL `id`, until its records have been swept.
--
-- `due_at` is when to look at the stream's end: at `expires_at` or before. An append slides
-- `expires_at` alone, which no index holds, so its update stays inside the page (HOT). The
-- space that a fillfactor of 50 leaves is for the new versions of the row.
CREATE TABLE {streams} (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" UNIQUE,
    state text NOT NULL,
    tail bigint NOT NULL,
    version bigint NOT NULL,
    error text,                  -- as JSON: it may contain NUL, which text cannot
    attributes text NOT NULL,    -- as JSON
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ttl double precision,        -- seconds
    expires_at timestamptz,
    due_at timestamptz
) WITH (fillfactor = 50);

CREATE INDEX ON {streams} (due_at) WHERE due_at IS NOT NULL;

-- A record is keyed by its end: what follows an offset is then one range of the index.
CREATE TABLE {records} (
    stream_key bigint NOT NULL,
    end_offset bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (stream_key, end_offset)
);

-- Compressing costs more than it saves on data that is read back within the hour.
ALTER TABLE {records} ALTER data SET STORAGE EXTERNAL;
