-- What happened, append-only: the attempt log, the feed and the source of webhooks in one.
CREATE TABLE events (
    tenant_id uuid NOT NULL,
    -- Without gaps, and visible in order (event_counters).
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- message.accepted, message.scheduled, message.deferred, message.relayed, …
    type text NOT NULL,
    -- Null where the event is about no message (webhook.test).
    message_id uuid,
    -- Null where the event is about the message as a whole.
    recipient_id uuid,
    -- 1 for the first; null where no attempt was made.
    attempt smallint,
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host and address spoken to, TLS version and cipher.
    mx text,
    ip text,
    tls text,
    duration_ms integer,
    next_attempt_at timestamptz,
    -- Of a bounce: hard, soft, block or undetermined; what kind; told by smtp or dsn.
    bounce_type text,
    bounce_category text,
    bounce_source text,
    PRIMARY KEY (tenant_id, seq, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- What happened to a message.
CREATE INDEX events_message ON events (message_id, seq);
