-- Webhook endpoints and their deliveries.

-- Where events are posted. An endpoint is a cursor over the tenant's events. Deliveries are made in order; only failed ones
-- have rows of their own (webhook_retries).
CREATE TABLE webhook_endpoints (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    url text NOT NULL,
    -- For people.
    description text NOT NULL DEFAULT '',
    -- Event types to deliver (events.type); null: all.
    events text[] CHECK (cardinality(events) > 0),
    -- Signs every post (Standard Webhooks 1.0); 24 bytes or more. Encrypted if secret_key is configured: then 'PRSEAL1', a zero
    -- byte, and the nonce, text and tag of AES-256-GCM.
    secret bytea NOT NULL CONSTRAINT webhook_endpoints_secret_check CHECK (octet_length(secret) BETWEEN 24 AND 100),
    -- The previous secret, which signs too until old_secret_until and is then deleted; null: none. Encrypted likewise.
    old_secret bytea,
    old_secret_until timestamptz,
    CONSTRAINT webhook_endpoints_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    -- Concurrent posts, posts per second (null: no limit), and events per post.
    concurrency smallint NOT NULL DEFAULT 8 CHECK (concurrency BETWEEN 1 AND 256),
    rate double precision CHECK (rate > 0 AND rate <= 1e5),
    batch smallint NOT NULL DEFAULT 1 CHECK (batch BETWEEN 1 AND 100),
    -- Every event up to this seq is delivered, was not subscribed to, or is in webhook_retries.
    cursor bigint NOT NULL,
    -- Nothing is posted before then, because of Retry-After, the rate limit, or several failures in a row.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Since when every post has failed; null: the last one succeeded.
    failing_since timestamptz,
    -- Failed posts in a row. While the endpoint is down only probes count.
    failures integer NOT NULL DEFAULT 0,
    -- Why the last post failed; null: it succeeded.
    last_error text,
    last_success_at timestamptz,
    -- When the endpoint was disabled, and why: by an operator, by a 410, or after 5 days of failures; null: enabled.
    disabled_at timestamptz,
    disabled_reason text,
    CONSTRAINT webhook_endpoints_disabled_whole CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    -- The worker that posts to the endpoint (workers.id); null: not leased.
    lease uuid,
    -- Serves every look-up of an endpoint by id.
    PRIMARY KEY (id, tenant_id)
);
-- Serves GET /v1/webhooks, newest first.
CREATE INDEX webhook_endpoints_tenant ON webhook_endpoints (tenant_id, id);

-- Failed deliveries that will be retried; deleted when they succeed or are given up. There are few: while all posts to an
-- endpoint fail, its cursor does not move.
CREATE TABLE webhook_retries (
    -- webhook_endpoints.id.
    endpoint_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- The first event of the post; with the endpoint it identifies the delivery (webhook-id).
    seq bigint NOT NULL,
    -- All events of the post, in order.
    seqs bigint[] NOT NULL CHECK (cardinality(seqs) BETWEEN 1 AND 100),
    -- Delivery attempts made.
    attempts smallint NOT NULL CHECK (attempts > 0),
    -- When the next one may start.
    due_at timestamptz NOT NULL,
    -- Serves recording the outcome of a retry.
    PRIMARY KEY (endpoint_id, seq, tenant_id)
);
-- Serves loading the due retries of an endpoint.
CREATE INDEX webhook_retries_due ON webhook_retries (endpoint_id, due_at);

-- The log of delivery attempts: every post to an endpoint and its outcome. Partitioned by week.
CREATE TABLE webhook_attempts (
    -- UUIDv7 of the start.
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- webhook_endpoints.id.
    endpoint_id uuid NOT NULL,
    -- The first event of the post, and the number of events.
    seq bigint NOT NULL,
    events smallint NOT NULL,
    -- Number of the attempt, from 1.
    attempt smallint NOT NULL,
    -- Bytes of the request body.
    size integer NOT NULL,
    -- HTTP status; null: there was no response, and error says why.
    status smallint,
    -- The start of the response body, as text.
    answer text,
    -- Why the attempt failed; null: it succeeded.
    error text,
    duration_ms integer NOT NULL,
    -- When the delivery is retried; null: it is not.
    next_attempt_at timestamptz,
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE webhook_attempts_default PARTITION OF webhook_attempts DEFAULT;

-- Serves GET /v1/webhooks/{id}/deliveries, newest first.
CREATE INDEX webhook_attempts_endpoint ON webhook_attempts (endpoint_id, id);
