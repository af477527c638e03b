-- Where each recipient of each message is.
CREATE TABLE recipients (
    message_id uuid NOT NULL,
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- Order within the request.
    position smallint NOT NULL,
    -- Header it stands in: to, cc, or none (bcc).
    kind text NOT NULL CHECK (kind IN ('to', 'cc', 'bcc')),
    address text NOT NULL,
    name text,
    -- queued, deferred: in the queue. scheduled and sending are read from the queue and never stored.
    status text NOT NULL CHECK (status IN ('queued', 'deferred', 'relayed', 'delivered', 'bounced', 'expired',
                                           'suppressed', 'canceled', 'uncertain')),
    attempts smallint NOT NULL DEFAULT 0,
    last_attempt_at timestamptz,
    -- When it reached its end state.
    finished_at timestamptz,
    -- The last reply: three digits, enhanced code, text; no code where the text is ours.
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host last spoken to, and the TLS version and cipher used.
    mx text,
    tls text,
    -- The message first, as in contents.
    PRIMARY KEY (message_id, id, tenant_id),
    CONSTRAINT recipients_end_is_dated CHECK ((status IN ('queued', 'deferred')) = (finished_at IS NULL))
) PARTITION BY RANGE (message_id);
CREATE TABLE recipients_default PARTITION OF recipients DEFAULT;

-- "Where is the mail to ann@example.test?"
CREATE INDEX recipients_address ON recipients (lower(address), tenant_id, message_id);
-- The list filtered by a status that few messages are in.
CREATE INDEX recipients_notable ON recipients (status, tenant_id, message_id)
    WHERE status NOT IN ('queued', 'relayed', 'delivered');
