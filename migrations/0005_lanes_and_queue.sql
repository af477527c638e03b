-- Lanes, and the queue of recipients that wait in them.

-- One lane per stream, route and destination. A claim names lanes, so that the rows of a blocked lane are never read.
CREATE TABLE lanes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- streams.name.
    stream text NOT NULL,
    -- mx: direct to the destination's mail exchangers. relay: the relay of [smtp]. relay:NAME: the relays of [routes.NAME].
    route text NOT NULL CONSTRAINT lanes_route_check CHECK (route ~ '^(mx|relay|relay:[A-Za-z0-9_-]{1,64})$'),
    -- The recipients' domain as A-labels; '*': every domain that has no lane of its own on a relay route.
    domain text NOT NULL,
    -- Copy of streams.priority.
    priority smallint NOT NULL,
    -- Lower bound of the due times of rows that are not leased; infinity: nothing waits. A commit that adds rows lowers it
    -- under a share lock (lower_lanes); only a worker that found the lane empty raises it, under an exclusive lock
    -- (raise_lanes).
    ready_at timestamptz NOT NULL DEFAULT 'infinity',
    -- When an operator paused the lane, and the reason given; null: not paused.
    paused_at timestamptz,
    pause_reason text,
    -- Limits set by an operator, over all replicas; null: none. Concurrent connections, messages per second, and messages per
    -- connection.
    connections integer CHECK (connections BETWEEN 1 AND 10000),
    rate double precision CHECK (rate > 0 AND rate <= 1e6),
    mails_per_connection integer CHECK (mails_per_connection BETWEEN 1 AND 100000),
    -- Nothing of the lane is claimed before then: the rate limit admits nothing, or the destination is unreachable and this
    -- is the time of the next probe.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- State of the rate limiter (GCRA): the theoretical arrival time of the next message.
    next_turn_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The adaptive limit, learned from 421 and 4.7.x replies. learned_rate: messages per second now. learned_ceiling: the rate
    -- at which the destination first throttled; beyond it the limit is dropped. learned_at: when the rate was last
    -- lowered. raised_at: when it was last raised since; null: not yet. learned_reply: the reply that lowered it.
    learned_rate double precision CHECK (learned_rate > 0),
    learned_ceiling double precision CHECK (learned_ceiling > 0),
    learned_at timestamptz,
    raised_at timestamptz,
    learned_reply text,
    -- Since when the destination is unreachable; null: it is reachable.
    blocked_since timestamptz,
    -- Failed probes in a row, and the reply or error of the last one.
    block_failures smallint NOT NULL DEFAULT 0,
    block_reply text,
    -- When a worker last reached the destination after it had been unreachable. For some minutes after that, a worker that
    -- cannot reach it blocks the lane for itself only: its own network may be at fault.
    unblocked_at timestamptz,
    -- Why the destination is unreachable: auth, certificate, tls, dns, connection_refused, timeout, network, disconnected
    -- or refused; null: it is reachable.
    block_cause text,
    -- Host name of the relay or MX that was tried last; null: none was found.
    block_host text,
    CONSTRAINT lanes_learned_whole CHECK (num_nulls(learned_rate, learned_ceiling, learned_at) IN (0, 3)),
    CONSTRAINT lanes_block_whole CHECK ((blocked_since IS NULL) = (block_failures = 0)),
    -- Serves every look-up of a lane by id.
    PRIMARY KEY (id, tenant_id),
    -- Serves finding the lanes of a new message's recipients.
    UNIQUE (tenant_id, stream, route, domain)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- Serves doctor's oldest due message, over all streams (overview.oldest_due).
CREATE INDEX lanes_ready ON lanes (priority, ready_at) WHERE paused_at IS NULL AND ready_at < 'infinity';
-- Serves the claim: the lanes of a stream that are open and have something due (lanes.ready).
CREATE INDEX lanes_open ON lanes (tenant_id, stream, (greatest(ready_at, open_at))) WHERE paused_at IS NULL;
-- Serves the list of domains that need a lane of their own on a relay route, every two seconds, however many once had one.
CREATE INDEX lanes_split ON lanes (tenant_id, stream, route, domain)
    WHERE route <> 'mx' AND domain <> '*'
        AND num_nonnulls(connections, rate, mails_per_connection, learned_rate, paused_at, blocked_since) > 0;

-- One row per recipient that still has to be sent to. It is deleted when the recipient reaches an end state.
CREATE TABLE queue (
    message_id uuid NOT NULL,
    recipient_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- lanes.id.
    lane_id bigint NOT NULL,
    -- When the next attempt may start; infinity: held.
    due_at timestamptz NOT NULL,
    -- When the first attempt could start. The retry window begins here.
    first_due_at timestamptz NOT NULL,
    -- The worker that has leased the row (workers.id); null: not leased.
    lease uuid,
    -- How often the row was claimed. With lease it identifies one claim: the fence against stale leases.
    claims integer NOT NULL DEFAULT 0,
    -- Attempts made.
    attempts smallint NOT NULL DEFAULT 0,
    -- How many workers died while they had leased the row.
    crashes smallint NOT NULL DEFAULT 0,
    -- Why the row waits for an operator; null: it does not.
    held text,
    -- Copy of messages.expires_at, so that rows behind a pause or an unreachable destination expire in time.
    expires_at timestamptz,
    -- Set before an attempt on a quarantined row, so that the next crash can be attributed to it.
    begun boolean NOT NULL DEFAULT false,
    -- Set before DATA if on_uncertain is hold or fail: after a crash the recipient is uncertain instead of retried.
    data_started boolean NOT NULL DEFAULT false,
    -- Why the message could not be prepared: a DKIM key cannot be decrypted, or public_url is not set. Names the domain and
    -- the configuration key. Not counted as an attempt. Null: the last preparation succeeded, or none was tried.
    preparation_error text,
    -- When the first of the preparation failures in a row was; null with preparation_error.
    preparation_failed_at timestamptz,
    CONSTRAINT queue_held_is_not_due CHECK ((held IS NULL) OR (due_at = 'infinity')),
    -- Serves the status, cancellation and completion of a message.
    PRIMARY KEY (message_id, recipient_id, tenant_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.1);

-- Serves the claim: what is due in a lane, oldest first.
CREATE INDEX queue_due ON queue (lane_id, due_at, message_id, recipient_id) WHERE lease IS NULL;
-- Serves the expiry of messages behind a pause or an unreachable destination.
CREATE INDEX queue_expires ON queue (lane_id, expires_at) WHERE lease IS NULL AND expires_at IS NOT NULL;
-- Serves the count of unprepared messages in GET /v1/lanes, and POST /v1/lanes/{id}/reset, which makes them due at once.
CREATE INDEX queue_preparation_error ON queue (lane_id, preparation_failed_at)
    WHERE lease IS NULL AND preparation_error IS NOT NULL;

-- Connections of a limited lane, divided among workers: the sum never exceeds the lane's limit. Deleted with the worker.
CREATE TABLE permits (
    tenant_id uuid NOT NULL,
    -- lanes.id.
    lane_id bigint NOT NULL,
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    -- Connections that the worker may open.
    count integer NOT NULL CHECK (count > 0),
    -- Serves granting permits of a lane.
    PRIMARY KEY (lane_id, worker_id)
) WITH (fillfactor = 50);

-- Messages in flight of a limited stream, divided likewise.
CREATE TABLE stream_permits (
    tenant_id uuid NOT NULL,
    -- streams.name.
    stream text NOT NULL,
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    -- Messages that the worker may have in flight.
    count integer NOT NULL CHECK (count > 0),
    -- Serves granting permits of a stream.
    PRIMARY KEY (tenant_id, stream, worker_id)
) WITH (fillfactor = 50);

-- Serve the deletion of a worker.
CREATE INDEX permits_worker ON permits (worker_id);
CREATE INDEX stream_permits_worker ON stream_permits (worker_id);

-- Past pauses of lanes and streams. The retry window stands still during a pause: the time of every pause since a recipient's
-- first_due_at is added to its window. A pause that lasts is in lanes.paused_at or streams.paused_at; resuming moves it here.
-- Each resumption deletes rows older than 90 days.
CREATE TABLE pauses (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- The paused stream, or the stream of the paused lane.
    stream text NOT NULL,
    -- The paused lane (lanes.id); null: the whole stream was paused.
    lane_id bigint,
    paused_at timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL,
    CONSTRAINT pauses_end_after_start CHECK (resumed_at >= paused_at)
);

-- Serves workers, which load the pauses of the last 90 days, and the deletion of older ones.
CREATE INDEX pauses_resumed_at ON pauses (resumed_at);
