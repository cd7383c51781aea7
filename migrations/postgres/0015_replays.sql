-- Replays; on the control database. A generation's number is never given twice; the first generation is nobody's replay.
CREATE TABLE replay (
    generation        integer GENERATED ALWAYS AS IDENTITY (START WITH 2) PRIMARY KEY,
    id                uuid NOT NULL UNIQUE,
    version           bigint NOT NULL DEFAULT 1,
    started_at_micros bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    running           boolean NOT NULL,
    -- JSON of domain::replay::Replay.
    document          text NOT NULL
);
CREATE UNIQUE INDEX replay_running ON replay (running) WHERE running;
