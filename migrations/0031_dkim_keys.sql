-- The keys that sign a domain's mail (RFC 6376, RFC 8463). One that has served its time is deleted.
CREATE TABLE dkim_keys (
    tenant_id uuid NOT NULL,
    domain text NOT NULL,
    -- Its public half is at selector._domainkey.domain; never used for another key.
    selector text NOT NULL CHECK (octet_length(selector) BETWEEN 1 AND 63),
    algorithm text NOT NULL CHECK (algorithm IN ('ed25519', 'rsa')),
    -- pending: to sign once its record is seen; active: signs; retiring: signs no more, its record stays for what was signed.
    state text NOT NULL CHECK (state IN ('pending', 'active', 'retiring')),
    -- What the record says: 32 octets (ed25519) or a SubjectPublicKeyInfo (rsa).
    public_key bytea NOT NULL,
    -- PKCS #8, encrypted with a key that is derived from secret_key.
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- Until then the record of a key that signs no more is to stay; then the key is deleted.
    retire_at timestamptz,
    CONSTRAINT dkim_keys_retiring_ends CHECK ((state = 'retiring') = (retire_at IS NOT NULL)),
    PRIMARY KEY (tenant_id, domain, selector),
    FOREIGN KEY (tenant_id, domain) REFERENCES domains ON DELETE CASCADE
);
-- At most one of each algorithm signs, and one is to follow it.
CREATE UNIQUE INDEX dkim_keys_one_active ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'active';
CREATE UNIQUE INDEX dkim_keys_one_pending ON dkim_keys (tenant_id, domain, algorithm) WHERE state = 'pending';
