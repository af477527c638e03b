-- Where events are posted. An endpoint is a cursor over the tenant's events: what it has had, it has had in order; only what
-- failed has a row of its own (webhook_retries).
CREATE TABLE webhook_endpoints (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    url text NOT NULL,
    description text NOT NULL DEFAULT '',
    -- Types of events that it wants; null: all.
    events text[] CHECK (cardinality(events) > 0),
    -- 24 octets or more; signs every post (Standard Webhooks 1.0).
    secret bytea NOT NULL CHECK (octet_length(secret) BETWEEN 24 AND 64),
    -- The one before, which signs as well until then.
    old_secret bytea,
    old_secret_until timestamptz,
    CONSTRAINT webhook_endpoints_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    -- Posts at one time, posts a second (null: as many as it takes), events a post.
    concurrency smallint NOT NULL DEFAULT 8 CHECK (concurrency BETWEEN 1 AND 256),
    rate double precision CHECK (rate > 0 AND rate <= 1e5),
    batch smallint NOT NULL DEFAULT 1 CHECK (batch BETWEEN 1 AND 100),
    -- Every event up to this number was posted, was not wanted, or has a row in webhook_retries.
    cursor bigint NOT NULL,
    -- Nothing is posted before then: it asked for time (Retry-After), has had what its rate allows, or failed several times
    -- in a row.
    open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Since when no post has succeeded, where the last one failed; how many failed since (while it is down only those that
    -- were to find out whether it still is); what the last one came to.
    failing_since timestamptz,
    failures integer NOT NULL DEFAULT 0,
    last_error text,
    last_success_at timestamptz,
    -- Set while nothing is posted, with the reason: an operator's, the endpoint's own (410), or 5 days of failure.
    disabled_at timestamptz,
    disabled_reason text,
    CONSTRAINT webhook_endpoints_disabled_whole CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    -- The worker that posts to it; null while it is free.
    lease uuid,
    PRIMARY KEY (id, tenant_id)
);
CREATE INDEX webhook_endpoints_tenant ON webhook_endpoints (tenant_id, id);
