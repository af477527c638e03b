-- Sender domains and their DKIM keys.

-- Domains that messages are sent from, and the result of the last DNS check.
CREATE TABLE domains (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- A-labels, lower case.
    name text NOT NULL CHECK (name = lower(name) AND octet_length(name) BETWEEN 1 AND 253),
    created_at timestamptz NOT NULL,
    -- When the DNS was last checked; null: never.
    checked_at timestamptz,
    -- When a check last found the record of every signing key; null: never.
    verified_at timestamptz,
    -- The DMARC policy in force at the last check: none, quarantine or reject; null: there is no DMARC record.
    dmarc text CHECK (dmarc IN ('none', 'quarantine', 'reject')),
    -- The result for each record: [{"type", "name", "value", "purpose", "status", "found", "mend"}].
    findings jsonb NOT NULL DEFAULT '[]',
    -- When a worker checks the DNS next.
    check_at timestamptz NOT NULL,
    -- Whether the DMARC record says adkim=s: only signatures of exactly this domain count.
    dmarc_strict_dkim boolean NOT NULL DEFAULT false,
    -- Whether it says aspf=s: SPF counts only if the return path is in exactly this domain.
    dmarc_strict_spf boolean NOT NULL DEFAULT false,
    -- Serves every look-up of a domain by name.
    PRIMARY KEY (tenant_id, name)
);
-- Serves workers, which look for domains that are due for a check.
CREATE INDEX domains_check_at ON domains (check_at);

-- Keys that sign a domain's messages (RFC 6376, RFC 8463). A retired key is deleted.
CREATE TABLE dkim_keys (
    tenant_id uuid NOT NULL,
    -- domains.name.
    domain text NOT NULL,
    -- The public key is published at selector._domainkey.domain. Never used again for another key.
    selector text NOT NULL CHECK (octet_length(selector) BETWEEN 1 AND 63),
    -- ed25519 (RFC 8463) or rsa (RFC 6376).
    algorithm text NOT NULL CHECK (algorithm IN ('ed25519', 'rsa')),
    -- pending: signs once its record is found. active: signs. retiring: signs no more; its record must stay for messages that it
    -- signed.
    state text NOT NULL CHECK (state IN ('pending', 'active', 'retiring')),
    -- As in the record: 32 bytes (ed25519) or a SubjectPublicKeyInfo (rsa).
    public_key bytea NOT NULL,
    -- The private key: PKCS #8, encrypted with a key derived from secret_key.
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- When a retiring key is deleted; its record must stay until then. Null: the key is not retiring.
    retire_at timestamptz,
    CONSTRAINT dkim_keys_retiring_ends CHECK ((state = 'retiring') = (retire_at IS NOT NULL)),
    -- Serves loading the keys of a domain.
    PRIMARY KEY (tenant_id, domain, selector),
    FOREIGN KEY (tenant_id, domain) REFERENCES domains ON DELETE CASCADE
);
-- Keep each domain to one active and one pending key per algorithm.
CREATE UNIQUE INDEX dkim_keys_one_active ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'active';
CREATE UNIQUE INDEX dkim_keys_one_pending ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'pending';
