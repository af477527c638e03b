-- Statistics: what happened to messages, counted by minute, hour and day (GET /v1/statistics). Workers count the events of each
-- tenant in order of seq, in transactions of their own: no other transaction writes these tables.

-- The reference locks the table of tenants, which every request reads, so the migration fails rather than waiting for long behind
-- another transaction: nothing is changed then, and it can be run again.
SET LOCAL lock_timeout = '5s';

-- The position of the statistics in each tenant's events. A transaction that counts events locks the row, adds to the counters and
-- moves the cursor, so that each event is counted exactly once, by one worker at a time. The first event of a tenant adds its row.
CREATE TABLE statistics_cursors (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- All events up to this events.seq are counted.
    seq bigint NOT NULL DEFAULT 0,
    -- events.recorded_at of the newest counted event; null: none is counted yet.
    counted_until timestamptz,
    -- Set by `postrider statistics rebuild`: before it counts again, the worker deletes the rows from this time on, in steps. Null:
    -- nothing is to be deleted.
    clear_from timestamptz
) WITH (fillfactor = 50);

-- Counters by step, stream and provider. Each event is counted in a row of each step. Rows of minutes are deleted after 2 days, rows
-- of hours after a year, rows of days never.
CREATE TABLE statistics (
    tenant_id uuid NOT NULL,
    -- The length of the time span: minute, hour or day (in UTC).
    step text NOT NULL CHECK (step IN ('minute', 'hour', 'day')),
    -- The start of the time span.
    start_at timestamptz NOT NULL,
    -- messages.stream.
    stream text NOT NULL,
    -- The mailbox provider, from a closed list (domain::provider); other: none of them.
    provider text NOT NULL,
    -- Recipients of accepted messages, and recipients that reached each end state.
    accepted bigint NOT NULL,
    relayed bigint NOT NULL,
    delivered bigint NOT NULL,
    bounced bigint NOT NULL,
    expired bigint NOT NULL,
    suppressed bigint NOT NULL,
    canceled bigint NOT NULL,
    uncertain bigint NOT NULL,
    -- Attempts that failed and are followed by another one.
    deferred bigint NOT NULL,
    -- Complaints (feedback reports) and uses of the unsubscribe link.
    complained bigint NOT NULL,
    unsubscribed bigint NOT NULL,
    -- Serves counting, and GET /v1/statistics.
    PRIMARY KEY (tenant_id, step, start_at, stream, provider)
) WITH (fillfactor = 70);
-- Serves the deletion of old rows.
CREATE INDEX statistics_old ON statistics (step, start_at) WHERE step <> 'day';

-- Bounces by category, and latencies by bucket, of the rows of the table statistics. Kept as long as these.
CREATE TABLE statistics_details (
    tenant_id uuid NOT NULL,
    step text NOT NULL CHECK (step IN ('minute', 'hour', 'day')),
    start_at timestamptz NOT NULL,
    stream text NOT NULL,
    provider text NOT NULL,
    -- bounce: value is a category (events.bounce_category). latency: value is the number of a bucket
    -- (domain::statistics::latency) of the time from acceptance until a message was relayed or delivered.
    kind text NOT NULL CHECK (kind IN ('bounce', 'latency')),
    value text NOT NULL,
    -- Number of recipients.
    count bigint NOT NULL,
    -- Serves counting, and GET /v1/statistics.
    PRIMARY KEY (tenant_id, step, start_at, stream, provider, kind, value)
) WITH (fillfactor = 70);
-- Serves the deletion of old rows.
CREATE INDEX statistics_details_old ON statistics_details (step, start_at) WHERE step <> 'day';

-- The queue of each stream once a minute. A row of an hour or day has the highest values of its minutes. A stream without waiting
-- recipients has no row. Kept as long as the rows of the table statistics.
CREATE TABLE queue_samples (
    tenant_id uuid NOT NULL,
    step text NOT NULL CHECK (step IN ('minute', 'hour', 'day')),
    start_at timestamptz NOT NULL,
    -- streams.name.
    stream text NOT NULL,
    -- Recipients that waited, due then or later, and those that were due. Counted up to 100,000 in each lane.
    waiting bigint NOT NULL,
    due bigint NOT NULL,
    -- For how many seconds the oldest recipient had been due, in lanes that were neither paused nor unreachable; 0: none was due.
    oldest_due_seconds bigint NOT NULL,
    -- Serves sampling, and GET /v1/statistics.
    PRIMARY KEY (tenant_id, step, start_at, stream)
) WITH (fillfactor = 70);
-- Serves the deletion of old rows.
CREATE INDEX queue_samples_old ON queue_samples (step, start_at) WHERE step <> 'day';

-- The time spans in which the queue was measured, of all tenants: in these, a stream without a row in queue_samples had an empty
-- queue. Kept as long as the rows of the table statistics.
CREATE TABLE queue_sampled (
    step text NOT NULL CHECK (step IN ('minute', 'hour', 'day')),
    start_at timestamptz NOT NULL,
    -- Serves sampling, GET /v1/statistics, and the deletion of old rows.
    PRIMARY KEY (step, start_at)
);

-- One row: when the next sample may be taken. The worker that moves it takes the sample.
CREATE TABLE queue_sampling (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    -- The next minute, or later if the last sample took long.
    next_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO queue_sampling DEFAULT VALUES;
