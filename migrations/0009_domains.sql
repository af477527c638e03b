-- Sender domains and their DKIM keys.

-- Domains that messages are sent from, and the result of the last DNS check.
CREATE TABLE domains (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Domain name as A-labels, in lower case.
    name text NOT NULL CHECK (name = lower(name) AND octet_length(name) BETWEEN 1 AND 253),
    created_at timestamptz NOT NULL,
    -- Time of the last check with a conclusive result for the records of the signing keys; null: never. A check during which
    -- DNS servers did not respond is not conclusive.
    checked_at timestamptz,
    -- Time of the last check that found the records of all signing keys; null: never.
    verified_at timestamptz,
    -- The DMARC policy that applied at the last conclusive check (for a subdomain without its own record, the subdomain policy
    -- of the parent): none, quarantine or reject; null: no DMARC record was found, or no check has been conclusive.
    dmarc text CHECK (dmarc IN ('none', 'quarantine', 'reject')),
    -- The result of the last check for each DNS record, [{"type", "name", "value", "purpose", "status", "found", "mend",
    -- "warning"}]. mend describes the fix.
    findings jsonb NOT NULL DEFAULT '[]',
    -- When a worker checks the DNS records next.
    check_at timestamptz NOT NULL,
    -- Whether the DMARC record has adkim=s: DKIM signatures are aligned only if they are by exactly the domain in From.
    dmarc_strict_dkim boolean NOT NULL DEFAULT false,
    -- Whether the DMARC record has aspf=s: SPF is aligned only if the return path's domain is exactly the domain in From.
    dmarc_strict_spf boolean NOT NULL DEFAULT false,
    -- Serves every lookup of a domain by name.
    PRIMARY KEY (tenant_id, name)
);
-- Serves workers, which claim domains whose check is due.
CREATE INDEX domains_check_at ON domains (check_at);

-- DKIM keys of sender domains (RFC 6376, RFC 8463).
CREATE TABLE dkim_keys (
    tenant_id uuid NOT NULL,
    -- domains.name.
    domain text NOT NULL,
    -- DKIM selector: the public key is published at selector._domainkey.domain. A selector is never reused for another key.
    selector text NOT NULL CHECK (octet_length(selector) BETWEEN 1 AND 63),
    -- ed25519 (RFC 8463) or rsa (RFC 6376).
    algorithm text NOT NULL CHECK (algorithm IN ('ed25519', 'rsa')),
    -- pending: not used for signing until a check finds its DNS record. active: signs messages. retiring: no longer signs; its
    -- DNS record must stay published, so that receivers can verify messages that it signed.
    state text NOT NULL CHECK (state IN ('pending', 'active', 'retiring')),
    -- The public key as published in the DNS record, before base64: 32 bytes (ed25519) or a SubjectPublicKeyInfo (rsa).
    public_key bytea NOT NULL,
    -- The private key in PKCS #8, encrypted with a key derived from secret_key.
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- When a retiring key is deleted; its DNS record must stay published until then. Null: the key is not retiring.
    retire_at timestamptz,
    CONSTRAINT dkim_keys_retiring_ends CHECK ((state = 'retiring') = (retire_at IS NOT NULL)),
    -- Serves loading the keys of a domain.
    PRIMARY KEY (tenant_id, domain, selector),
    FOREIGN KEY (tenant_id, domain) REFERENCES domains ON DELETE CASCADE
);
-- Ensure that a domain has at most one active and one pending key per algorithm.
CREATE UNIQUE INDEX dkim_keys_one_active ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'active';
CREATE UNIQUE INDEX dkim_keys_one_pending ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'pending';
