-- What waits together: one lane a stream, route and destination. A claim names lanes, so that the rows of a lane that
-- is blocked are never looked at.
CREATE TABLE lanes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    stream text NOT NULL,
    -- relay or mx.
    route text NOT NULL CHECK (route IN ('relay', 'mx')),
    -- Destination domain as A-labels; '*' for all that goes through a relay.
    domain text NOT NULL,
    -- The stream's; lower goes first.
    priority smallint NOT NULL,
    -- No free row of this lane is due before then; infinity when none waits. A commit that adds rows lowers it under a
    -- share lock; only a worker that found the lane empty raises it, under an exclusive one.
    ready_at timestamptz NOT NULL DEFAULT 'infinity',
    -- Set while an operator has stopped the lane, with the reason given.
    paused_at timestamptz,
    pause_reason text,
    PRIMARY KEY (id, tenant_id),
    UNIQUE (tenant_id, stream, route, domain)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- A worker asks which lanes have something due.
CREATE INDEX lanes_ready ON lanes (priority, ready_at) WHERE paused_at IS NULL AND ready_at < 'infinity';

-- One row per recipient that still has to go; rows leave it at an end state.
CREATE TABLE queue (
    message_id uuid NOT NULL,
    recipient_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    lane_id bigint NOT NULL,
    -- When the next attempt may start; infinity while held.
    due_at timestamptz NOT NULL,
    -- When the first attempt could start: the retry window counts from here.
    first_due_at timestamptz NOT NULL,
    -- The worker that has it in hand (workers.id); null while it is free.
    lease uuid,
    -- How often it was claimed: with the lease it names one claim, so that what an earlier one does late changes nothing.
    claims integer NOT NULL DEFAULT 0,
    -- Attempts made so far.
    attempts smallint NOT NULL DEFAULT 0,
    -- How many workers died with it in hand.
    crashes smallint NOT NULL DEFAULT 0,
    -- Why it waits for an operator, where it does.
    held text,
    CONSTRAINT queue_held_is_not_due CHECK ((held IS NULL) OR (due_at = 'infinity')),
    -- Serves the status, cancellation and completion of a message.
    PRIMARY KEY (message_id, recipient_id, tenant_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.1);

-- The claim: what is due in a lane, oldest first.
CREATE INDEX queue_due ON queue (lane_id, due_at, message_id, recipient_id) WHERE lease IS NULL;

-- The processes that deliver. One that has not been heard of for a lease's time has died: its rows are freed.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    -- Where it runs, for a person.
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL
);
