-- AUTOINCREMENT: a generation's number is never given twice. The first generation is nobody's replay.
CREATE TABLE replay (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    started_at_micros INTEGER NOT NULL,
    running INTEGER NOT NULL,
    -- JSON of domain::replay::Replay.
    document TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX replay_running ON replay (running) WHERE running = 1;

INSERT INTO sqlite_sequence (name, seq) VALUES ('replay', 1);
