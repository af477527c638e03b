-- Lanes, and the queue of the recipients that are still to be sent to.

-- One lane per stream, route and destination. A claim selects open lanes first, so that it never reads the queue rows of a
-- closed lane.
CREATE TABLE lanes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- streams.name.
    stream text NOT NULL,
    -- mx: direct to the destination's mail exchangers. relay: the relay of [smtp]. relay:NAME: the relays of [routes.NAME].
    route text NOT NULL CONSTRAINT lanes_route_check CHECK (route ~ '^(mx|relay|relay:[A-Za-z0-9_-]{1,64})$'),
    -- The recipients' domain as A-labels; '*' on a relay route: all domains without a dedicated lane.
    domain text NOT NULL,
    -- streams.priority when the lane was created. Not updated: claims read streams.priority.
    priority smallint NOT NULL,
    -- Lower bound of the due times of the lane's rows that are not leased; infinity: no row waits. A transaction that adds or
    -- releases rows lowers it and holds a share lock on the lane until it commits (lower_lanes). A worker raises it under an
    -- exclusive lock, after a claim has leased the due rows (raise_lanes).
    ready_at timestamptz NOT NULL DEFAULT 'infinity',
    -- When an operator paused the lane, and the reason that the operator gave; paused_at null: not paused.
    paused_at timestamptz,
    pause_reason text,
    -- Limits set by an operator; null: no limit. connections: concurrent connections over all replicas. rate: messages per
    -- second over all replicas. mails_per_connection: messages per connection.
    connections integer CHECK (connections BETWEEN 1 AND 10000),
    rate double precision CHECK (rate > 0 AND rate <= 1e6),
    mails_per_connection integer CHECK (mails_per_connection BETWEEN 1 AND 100000),
    -- No row of the lane is claimed before this time: the rate limit is used up, or the destination is unreachable and this is
    -- the time of the next probe. -infinity: no wait.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- State of the rate limiter (GCRA): the theoretical arrival time of the next message.
    next_turn_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The adaptive limit, learned from replies that throttle, such as 421 and 4.7.x; null: none. learned_rate: the current
    -- limit in messages per second. learned_ceiling: the rate above which the limit is dropped: the rate that was attempted
    -- when the destination first throttled, at least twice the first learned_rate. learned_at: when the rate was last lowered.
    -- raised_at: when the rate was last raised after that; null: not yet. learned_reply: the reply that last lowered the rate.
    learned_rate double precision CHECK (learned_rate > 0),
    learned_ceiling double precision CHECK (learned_ceiling > 0),
    learned_at timestamptz,
    raised_at timestamptz,
    learned_reply text,
    -- When the destination became unreachable; null: it is reachable.
    blocked_since timestamptz,
    -- Consecutive failures to reach the destination, including the first one, and the reply or error of the last one.
    block_failures smallint NOT NULL DEFAULT 0,
    block_reply text,
    -- When a worker last reached the destination after it had been unreachable. For 5 minutes after that, the report of a
    -- worker that has not reached it since does not make it unreachable again: that worker's own network may be at fault.
    unblocked_at timestamptz,
    -- Why the destination is unreachable: auth, certificate, tls, dns, connection_refused, timeout, network, disconnected
    -- or refused; null: it is reachable.
    block_cause text,
    -- Host name of the relay or MX of the last failure; null: no host was found.
    block_host text,
    CONSTRAINT lanes_learned_whole CHECK (num_nulls(learned_rate, learned_ceiling, learned_at) IN (0, 3)),
    CONSTRAINT lanes_block_whole CHECK ((blocked_since IS NULL) = (block_failures = 0)),
    -- Serves every lookup of a lane by id.
    PRIMARY KEY (id, tenant_id),
    -- Serves finding the lanes of a new message's recipients.
    UNIQUE (tenant_id, stream, route, domain)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- Serves the oldest due time that postrider doctor shows (overview.oldest_due).
CREATE INDEX lanes_ready ON lanes (priority, ready_at) WHERE paused_at IS NULL AND ready_at < 'infinity';
-- Serves the claim: the open lanes of a stream with due rows (lanes.ready).
CREATE INDEX lanes_open ON lanes (tenant_id, stream, (greatest(ready_at, open_at))) WHERE paused_at IS NULL;
-- Serves the list of dedicated lanes in use (lanes.dedicated.all), which each process reads every two seconds. Lanes that are
-- no longer in use as dedicated lanes are not in the index.
CREATE INDEX lanes_split ON lanes (tenant_id, stream, route, domain)
    WHERE route <> 'mx' AND domain <> '*'
        AND num_nonnulls(connections, rate, mails_per_connection, learned_rate, paused_at, blocked_since) > 0;

-- One row per recipient that is still to be sent to. The row is deleted when the recipient reaches an end state.
CREATE TABLE queue (
    message_id uuid NOT NULL,
    recipient_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- lanes.id.
    lane_id bigint NOT NULL,
    -- When the next attempt may start; infinity: the recipient is held for an operator.
    due_at timestamptz NOT NULL,
    -- When the first attempt was due; the retry window starts here. Rescheduling and requeueing the recipient set it again.
    first_due_at timestamptz NOT NULL,
    -- The worker that has leased the row (workers.id); null: not leased.
    lease uuid,
    -- Number of the claim; each claim increments it. lease and claims together are the fence: the outcome of a claim is
    -- recorded only while the row has the lease and number of that claim. A requeued recipient starts at a random number.
    claims integer NOT NULL DEFAULT 0,
    -- Number of recorded attempts.
    attempts smallint NOT NULL DEFAULT 0,
    -- Number of worker crashes since the last recorded attempt that this recipient may have caused. The first crash counts
    -- against every recipient that the worker had leased, a later one only if begun is set. After the third, the recipient is
    -- held.
    crashes smallint NOT NULL DEFAULT 0,
    -- Why the recipient is held for an operator; null: it is not held.
    held text,
    -- Copy of messages.expires_at, so that recipients in paused lanes and lanes to unreachable destinations expire on time.
    expires_at timestamptz,
    -- Set before an attempt for a quarantined recipient (crashes > 0), so that a crash during the attempt counts against it.
    begun boolean NOT NULL DEFAULT false,
    -- Set before the message body is sent, if on_uncertain is hold or fail: if the worker dies then, the recipient becomes
    -- uncertain and is not retried.
    data_started boolean NOT NULL DEFAULT false,
    -- Why the message could not be prepared for sending, for example because a DKIM key cannot be decrypted or public_url is
    -- not set. A failed preparation is not an attempt. Null: no preparation has failed since the last recorded attempt.
    preparation_error text,
    -- When preparation first failed since the last recorded attempt; null if preparation_error is null.
    preparation_failed_at timestamptz,
    CONSTRAINT queue_held_is_not_due CHECK ((held IS NULL) OR (due_at = 'infinity')),
    -- Serves the status, cancellation and completion of a message.
    PRIMARY KEY (message_id, recipient_id, tenant_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.1);

-- Serves the claim: the due rows of a lane, oldest first.
CREATE INDEX queue_due ON queue (lane_id, due_at, message_id, recipient_id) WHERE lease IS NULL;
-- Serves the expiry of recipients in paused lanes and lanes to unreachable destinations.
CREATE INDEX queue_expires ON queue (lane_id, expires_at) WHERE lease IS NULL AND expires_at IS NOT NULL;
-- Serves the number of unprepared recipients in GET /v1/lanes, and POST /v1/lanes/{id}/reset, which makes them due.
CREATE INDEX queue_preparation_error ON queue (lane_id, preparation_failed_at)
    WHERE lease IS NULL AND preparation_error IS NOT NULL;

-- Each worker's share of the connections of a lane with a connection limit. No worker is granted a share that would raise the
-- sum above the limit. Rows are deleted with their worker.
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

-- Each worker's share of the messages in flight of a stream with a concurrency limit, granted in the same way.
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

-- These serve the deletion of a worker.
CREATE INDEX permits_worker ON permits (worker_id);
CREATE INDEX stream_permits_worker ON stream_permits (worker_id);

-- Past pauses of lanes and streams. Paused time does not count towards the retry window: every pause since a recipient's
-- first_due_at extends it. A current pause is in lanes.paused_at or streams.paused_at; resuming adds a row here, and deletes
-- rows of pauses that ended more than 90 days ago.
CREATE TABLE pauses (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- The paused stream, or the stream of the paused lane.
    stream text NOT NULL,
    -- The paused lane (lanes.id); null: the stream was paused.
    lane_id bigint,
    paused_at timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL,
    CONSTRAINT pauses_end_after_start CHECK (resumed_at >= paused_at)
);

-- Serves loading the pauses that ended in the last 90 days, and deleting older ones.
CREATE INDEX pauses_resumed_at ON pauses (resumed_at);
