-- Events: the log of attempts and other changes. The event feed (GET /v1/events) and webhook deliveries read them.

-- The last event number of each tenant. A transaction increments it in its last statement (take_event_numbers), so that event
-- numbers have no gaps and become visible in order. There is one narrow row per tenant, which is updated often: the low fill
-- factor leaves space for its versions.
CREATE TABLE event_counters (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- events.seq of the newest event; 0: no event so far.
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

INSERT INTO event_counters (tenant_id) VALUES ('00000000-0000-0000-0000-000000000000');

-- Rows are only added. Partitioned by week (see ensure_partition).
CREATE TABLE events (
    tenant_id uuid NOT NULL,
    -- Position in the tenant's feed, from 1, without gaps.
    seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- About a message: message.accepted, message.scheduled. About a recipient: message.scheduled (the recipient was
    -- rescheduled), message.canceled, message.deferred, message.relayed, message.delivered, message.bounced, message.expired,
    -- message.suppressed, message.uncertain, message.complained, message.unsubscribed. About a webhook endpoint: webhook.test,
    -- webhook.disabled.
    type text NOT NULL,
    -- The message (messages.id); null: the event is about a webhook endpoint.
    message_id uuid,
    -- The recipient (recipients.id); null: the event is about the message as a whole or a webhook endpoint.
    recipient_id uuid,
    -- Number of the attempt, from 1; null: the event does not record an attempt.
    attempt smallint,
    -- The reply of the attempt, the reply that a DSN quotes, or the reason for message.suppressed or webhook.disabled. If
    -- Postrider supplied the text, as after a timeout, the code is null; the enhanced code may still be set (5.1.10 for a null
    -- MX).
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host name and IP address of the server, TLS version and cipher, and the duration of the attempt; null: unknown, or no
    -- attempt.
    mx text,
    ip text,
    tls text,
    duration_ms integer,
    -- When the next attempt is due (the first one, for message.scheduled); null: no attempt is planned, or it is due at once.
    next_attempt_at timestamptz,
    -- Classification of a bounce (message.bounced); null: other events. bounce_type: hard (the address does not work), soft (a
    -- permanent refusal with a cause that may pass, such as a full mailbox, or a temporary failure that a DSN reports as
    -- final), block (the sender or the message was refused) or undetermined. bounce_category: unknown_user, bad_address,
    -- bad_domain, mailbox_disabled, moved, mailbox_full, size, relay_denied, restricted, sender_rejected, policy, reputation,
    -- blocklist, spam_content, harmful_content, format, authentication, rate_limit, greylisting, dns, unreachable, routing,
    -- tls, system, expired, protocol or other. bounce_source: smtp (a reply to Postrider) or dsn (a bounce message received
    -- later).
    bounce_type text,
    bounce_category text,
    bounce_source text,
    -- The webhook endpoint (webhook_endpoints.id) of webhook.test, which is posted only to it, or of webhook.disabled; null:
    -- other events.
    endpoint_id uuid,
    -- Of an event from a DSN or feedback report. true: only this recipient knows the return path that it came to. false: other
    -- recipients of the message know the return path too and may have forged the report, so it changed no state. Null: other
    -- events.
    vouched boolean,
    -- Serves the event feed and webhook deliveries, in order of seq.
    PRIMARY KEY (tenant_id, seq, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Serves the events of a message (GET /v1/messages/{id}/events).
CREATE INDEX events_message ON events (message_id, seq);
