-- How each kind of mail is treated: null means as configured.
ALTER TABLE streams
    -- Its share among streams of the same priority.
    ADD weight smallint NOT NULL DEFAULT 10 CHECK (weight BETWEEN 1 AND 1000),
    -- Over all lanes and replicas together: mails in flight at one time, and mails a second.
    ADD concurrency integer CHECK (concurrency BETWEEN 1 AND 100000),
    ADD rate double precision CHECK (rate > 0 AND rate <= 1e6),
    -- Nothing of this stream starts before then (the rate's next turn), and the rate's own clock, as in lanes.
    ADD open_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD next_turn_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Seconds: the waits after the first, second, … attempt; from the first due time to giving up; the first wait after
    -- greylisting.
    ADD retry_schedule integer[] CHECK (cardinality(retry_schedule) BETWEEN 1 AND 50),
    ADD retry_window integer CHECK (retry_window > 0),
    ADD greylist integer CHECK (greylist > 0),
    -- Set while an operator has stopped the stream, with the reason given.
    ADD paused_at timestamptz,
    ADD pause_reason text;
