-- Addresses that get no mail. One entry an address and stream; one for all streams counts beside those of single streams.
CREATE TABLE suppressions (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- As it is compared (domain::suppression): lower case, no needless quotes, the domain as A-labels.
    address text COLLATE "C" NOT NULL,
    -- For mail of this stream alone; '' for that of all.
    stream text COLLATE "C" NOT NULL DEFAULT '',
    -- hard_bounce: there is no such mailbox. complaint: its owner called a mail spam. unsubscribe: its owner wants no more.
    -- manual: somebody put it here.
    reason text NOT NULL CHECK (reason IN ('hard_bounce', 'complaint', 'unsubscribe', 'manual')),
    -- The mail that was the reason, where one was. It may be gone by now.
    message_id uuid,
    recipient_id uuid,
    -- What somebody wrote of it.
    note text,
    created_at timestamptz NOT NULL,
    -- From then on it no longer counts; null: it stays.
    expires_at timestamptz,
    -- Serves the look-ups at accept and claim, and the export.
    PRIMARY KEY (tenant_id, address, stream)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- The list, newest first.
CREATE INDEX suppressions_created ON suppressions (tenant_id, created_at, address, stream);
-- The chore that removes what has expired.
CREATE INDEX suppressions_expiring ON suppressions (expires_at) WHERE expires_at IS NOT NULL;
