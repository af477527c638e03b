-- Suppressions: addresses that no messages are sent to. There is one entry per address and stream, and one per address for all
-- streams.
CREATE TABLE suppressions (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Normalised (domain::suppression): lower case, no unnecessary quotes, the domain as A-labels.
    address text COLLATE "C" NOT NULL,
    -- The stream whose messages are not sent to the address; '': all streams.
    stream text COLLATE "C" NOT NULL DEFAULT '',
    -- hard_bounce: the mailbox does not exist. complaint: the recipient reported a message as spam. unsubscribe: the recipient
    -- unsubscribed. manual: added through the API.
    reason text NOT NULL CHECK (reason IN ('hard_bounce', 'complaint', 'unsubscribe', 'manual')),
    -- The message and recipient that caused the entry; null: no message did. They may have been deleted since.
    message_id uuid,
    recipient_id uuid,
    -- Free text from the API; null: none.
    note text,
    created_at timestamptz NOT NULL,
    -- The entry has no effect at and after this time; null: it does not expire.
    expires_at timestamptz,
    -- Serves the lookups when messages are accepted and when they are claimed, and the export.
    PRIMARY KEY (tenant_id, address, stream)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- Serves GET /v1/suppressions, newest first.
CREATE INDEX suppressions_created ON suppressions (tenant_id, created_at, address, stream);
-- Serves the deletion of expired entries.
CREATE INDEX suppressions_expiring ON suppressions (expires_at) WHERE expires_at IS NOT NULL;
