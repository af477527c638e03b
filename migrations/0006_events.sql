-- Events: the attempt log, the feed (GET /v1/events) and the source of webhooks in one.

-- The last event number of each tenant. A transaction adds to it as its last statement (take_event_numbers), so that event
-- numbers have no gaps and become visible in order. One narrow, frequently updated row per tenant, hence the fill factor.
CREATE TABLE event_counters (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- events.seq of the newest event; 0: none so far.
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

INSERT INTO event_counters (tenant_id) VALUES ('00000000-0000-0000-0000-000000000000');

-- Append-only; partitioned by week.
CREATE TABLE events (
    tenant_id uuid NOT NULL,
    -- Position in the tenant's feed, from 1, without gaps.
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- Of a message: message.accepted, message.scheduled. Of a recipient: message.canceled, message.deferred, message.relayed,
    -- message.delivered, message.bounced, message.expired, message.suppressed, message.uncertain, message.complained,
    -- message.unsubscribed. Of a webhook endpoint: webhook.test, webhook.disabled.
    type text NOT NULL,
    -- Null: the event is about a webhook endpoint.
    message_id uuid,
    -- Null: the event is about the message as a whole.
    recipient_id uuid,
    -- Number of the attempt, from 1; null: the event is about no attempt.
    attempt smallint,
    -- The reply: code and enhanced code are null if the text is Postrider's own, as after a timeout.
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host and address of the server, TLS version and cipher, and how long the attempt took.
    mx text,
    ip text,
    tls text,
    duration_ms integer,
    -- When the next attempt is due; null: there is none.
    next_attempt_at timestamptz,
    -- Of a bounce. bounce_type: hard (the address is bad), soft (temporary causes until the end), block (the sender or the message
    -- was refused) or undetermined. bounce_category: unknown_user, bad_address, bad_domain, mailbox_disabled, moved,
    -- mailbox_full, size, relay_denied, restricted, sender_rejected, policy, reputation, blocklist, spam_content,
    -- harmful_content, format, authentication, rate_limit, greylisting, dns, unreachable, routing, tls, system, expired,
    -- protocol or other. bounce_source: smtp (a reply to us) or dsn (a report that came back).
    bounce_type text,
    bounce_category text,
    bounce_source text,
    -- The webhook endpoint of a webhook.test, which goes to no other, or of a webhook.disabled; null: of other events.
    endpoint_id uuid,
    -- Of a report that came back: true if its return path identifies the recipient, false if other recipients know the same
    -- return path and may have forged the report, so that it changed no state. Null: of other events.
    vouched boolean,
    -- Serves the feed and webhooks, in order.
    PRIMARY KEY (tenant_id, seq, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Serves the events of a message (GET /v1/messages/{id}/events).
CREATE INDEX events_message ON events (message_id, seq);
