-- The delivery log: every post to an endpoint and what came of it. By week, as everything that grows.
CREATE TABLE webhook_attempts (
    -- UUIDv7 of its begin.
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    -- The first of the events posted, and how many they were.
    seq bigint NOT NULL,
    events smallint NOT NULL,
    -- 1 for the first try.
    attempt smallint NOT NULL,
    -- Octets of the body.
    size integer NOT NULL,
    -- Status answered; null where there was none, with the reason in `error`.
    status smallint,
    -- The start of the body answered, as text.
    answer text,
    error text,
    duration_ms integer NOT NULL,
    -- When it is tried again; null where it is not.
    next_attempt_at timestamptz,
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE webhook_attempts_default PARTITION OF webhook_attempts DEFAULT;

-- An endpoint's log, newest first.
CREATE INDEX webhook_attempts_endpoint ON webhook_attempts (endpoint_id, id);
