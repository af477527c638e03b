-- Webhook endpoints and their deliveries.

-- Webhook endpoints. An endpoint has a cursor over its tenant's events. First attempts are made in order of the events; a
-- failed delivery gets a row in webhook_retries.
CREATE TABLE webhook_endpoints (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    url text NOT NULL,
    -- A description for people.
    description text NOT NULL DEFAULT '',
    -- Event types to deliver (events.type); null: all.
    events text[] CHECK (cardinality(events) > 0),
    -- The secret that signs every post (Standard Webhooks 1.0), at least 24 bytes. Encrypted if secret_key is configured; the
    -- value is then 'PRSEAL1', a zero byte, and nonce, ciphertext and tag of AES-256-GCM.
    secret bytea NOT NULL CONSTRAINT webhook_endpoints_secret_check CHECK (octet_length(secret) BETWEEN 24 AND 100),
    -- The previous secret. Until old_secret_until, posts are signed with it too; then it is deleted. Null: none. Encrypted as
    -- secret is.
    old_secret bytea,
    old_secret_until timestamptz,
    CONSTRAINT webhook_endpoints_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    -- concurrency: limit on concurrent posts. rate: limit on posts per second; null: no limit. batch: maximum number of events
    -- per post.
    concurrency smallint NOT NULL DEFAULT 8 CHECK (concurrency BETWEEN 1 AND 256),
    rate double precision CHECK (rate > 0 AND rate <= 1e5),
    batch smallint NOT NULL DEFAULT 1 CHECK (batch BETWEEN 1 AND 100),
    -- Each event up to this seq was delivered, was given up, is in webhook_retries, or has a type that is not in events.
    cursor bigint NOT NULL,
    -- No post is made before this time, because of Retry-After, the rate limit, or at least 5 consecutive failures. -infinity:
    -- no wait.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- When the first post failed since the last success; null: none has failed since.
    failing_since timestamptz,
    -- Number of deliveries since the last success whose first attempt failed. From 5 on, the endpoint is down, and only failed
    -- probes count.
    failures integer NOT NULL DEFAULT 0,
    -- Error of the last failed post; null: none has failed since the last success.
    last_error text,
    -- When a post last succeeded; null: never.
    last_success_at timestamptz,
    -- When the endpoint was disabled, and why: through the API, because it returned 410, or because no post succeeded for 5
    -- days; null: it is enabled.
    disabled_at timestamptz,
    disabled_reason text,
    CONSTRAINT webhook_endpoints_disabled_whole CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    -- The worker that posts to the endpoint (workers.id); null: not leased.
    lease uuid,
    -- Serves every lookup of an endpoint by id.
    PRIMARY KEY (id, tenant_id)
);
-- Serves GET /v1/webhooks, newest first.
CREATE INDEX webhook_endpoints_tenant ON webhook_endpoints (tenant_id, id);

-- Failed deliveries that are to be retried. A row is deleted when its delivery succeeds or is given up. There are few rows:
-- while an endpoint is down, its cursor does not advance.
CREATE TABLE webhook_retries (
    -- webhook_endpoints.id.
    endpoint_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- events.seq of the first event of the delivery; with the endpoint it identifies the delivery (webhook-id).
    seq bigint NOT NULL,
    -- events.seq of all events of the delivery, in order.
    seqs bigint[] NOT NULL CHECK (cardinality(seqs) BETWEEN 1 AND 100),
    -- Number of delivery attempts made.
    attempts smallint NOT NULL CHECK (attempts > 0),
    -- When the next delivery attempt may start.
    due_at timestamptz NOT NULL,
    -- Serves recording the outcome of a retry.
    PRIMARY KEY (endpoint_id, seq, tenant_id)
);
-- Serves loading the due retries of an endpoint.
CREATE INDEX webhook_retries_due ON webhook_retries (endpoint_id, due_at);

-- The log of delivery attempts: every post to a webhook endpoint and its outcome. Partitioned by week (see ensure_partition).
CREATE TABLE webhook_attempts (
    -- UUIDv7 with the start time of the attempt.
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- webhook_endpoints.id.
    endpoint_id uuid NOT NULL,
    -- events.seq of the first event of the post, and the number of events.
    seq bigint NOT NULL,
    events smallint NOT NULL,
    -- Number of the delivery attempt, from 1.
    attempt smallint NOT NULL,
    -- Size of the request body in bytes.
    size integer NOT NULL,
    -- HTTP status of the response; null: there was no response, and error contains the reason.
    status smallint,
    -- The start of the response body, as text.
    answer text,
    -- Why the attempt failed; null: it succeeded.
    error text,
    duration_ms integer NOT NULL,
    -- When the delivery is retried; null: it is not retried.
    next_attempt_at timestamptz,
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE webhook_attempts_default PARTITION OF webhook_attempts DEFAULT;

-- Serves GET /v1/webhooks/{id}/deliveries, newest first.
CREATE INDEX webhook_attempts_endpoint ON webhook_attempts (endpoint_id, id);
