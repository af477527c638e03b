-- Streams: kinds of traffic with their own priority and limits. Password resets must not wait behind newsletters.

CREATE TABLE streams (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Letters, digits, '-' and '_'.
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- Messages of the stream with the lowest number are sent first.
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    created_at timestamptz NOT NULL,
    -- Relative share of the workers' capacity among streams of the same priority.
    weight smallint NOT NULL DEFAULT 10 CHECK (weight BETWEEN 1 AND 1000),
    -- Limit on messages in flight, over all lanes and replicas; null: no limit.
    concurrency integer CHECK (concurrency BETWEEN 1 AND 100000),
    -- Limit on messages per second, over all lanes and replicas; null: no limit.
    rate double precision CHECK (rate > 0 AND rate <= 1e6),
    -- No message of the stream is claimed before this time, because the rate limit is used up; -infinity: no wait.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- State of the rate limiter (GCRA): the theoretical arrival time of the next message.
    next_turn_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Waits in seconds after the first, second, … attempt; the last one repeats. Null: the configured retry schedule applies.
    retry_schedule integer[] CHECK (cardinality(retry_schedule) BETWEEN 1 AND 50),
    -- Seconds from the first due time to expiry; null: the configured retry window applies.
    retry_window integer CHECK (retry_window > 0),
    -- Minimum wait in seconds after the first attempt, if its reply is a greylisting reply that names no wait. Later attempts
    -- follow the retry schedule. Null: the configured greylisting wait applies.
    greylist integer CHECK (greylist > 0),
    -- When an operator paused the stream, and the reason that the operator gave; paused_at null: not paused.
    paused_at timestamptz,
    pause_reason text,
    -- Whether new messages of the stream carry a one-click unsubscribe link (RFC 8058). Messages with several recipients, or
    -- with their own List-Unsubscribe header, carry none.
    unsubscribe boolean NOT NULL DEFAULT false,
    -- Serves every lookup of a stream by name.
    PRIMARY KEY (tenant_id, name)
);

INSERT INTO streams (tenant_id, name, priority, created_at) VALUES
    ('00000000-0000-0000-0000-000000000000', 'transactional', 10, now()),
    ('00000000-0000-0000-0000-000000000000', 'bulk', 50, now());
