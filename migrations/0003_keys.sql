-- API keys. The key itself is shown once and never stored.
CREATE TABLE keys (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- What the operator calls it.
    name text NOT NULL,
    -- SHA-256 of the key; every request looks it up here.
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- What it allows: send, read, admin (everything).
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['send', 'read', 'admin'] AND cardinality(scopes) > 0),
    -- Domains it may send from, as A-labels; null means any.
    sender_domains text[],
    created_at timestamptz NOT NULL,
    -- Refused from then on; null means never.
    expires_at timestamptz,
    -- To within a minute.
    last_used_at timestamptz,
    -- Set when the key was withdrawn; the row stays, so that a name in an old log can be explained.
    revoked_at timestamptz
);
