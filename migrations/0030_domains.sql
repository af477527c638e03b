-- Domains that mail is sent from and signed for, and what the DNS last showed of them.
CREATE TABLE domains (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- As addresses have it: A-labels, lower case.
    name text NOT NULL CHECK (name = lower(name) AND octet_length(name) BETWEEN 1 AND 253),
    created_at timestamptz NOT NULL,
    -- When the DNS was last asked; null: never.
    checked_at timestamptz,
    -- When it last showed the record of every key that signs; null: never.
    verified_at timestamptz,
    -- The DMARC policy that was last found to apply: none, quarantine or reject; null: there is none.
    dmarc text CHECK (dmarc IN ('none', 'quarantine', 'reject')),
    -- What was last found for each record: [{"type", "name", "value", "purpose", "status", "found", "mend"}].
    findings jsonb NOT NULL DEFAULT '[]',
    -- When a worker asks the DNS next.
    check_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
-- For the worker that looks for domains whose turn it is.
CREATE INDEX domains_check_at ON domains (check_at);
