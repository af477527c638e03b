-- Tenants and their API keys.

-- Who owns the data. Every table that holds data of a tenant has tenant_id, so that the schema can be sharded by tenant.
CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    -- Unique; for the operator.
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

INSERT INTO tenants (id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000000', 'default', now());

-- API keys. The key itself is returned once, when it is created, and never stored.
CREATE TABLE keys (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- A label chosen by the operator.
    name text NOT NULL,
    -- SHA-256 of the key. Its unique index serves authentication, once per request.
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- send: submit messages. read: read everything. admin: all of it, and changes of settings.
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['send', 'read', 'admin'] AND cardinality(scopes) > 0),
    -- Domains the key may send from and whose messages it may read, as A-labels; null: any.
    sender_domains text[],
    created_at timestamptz NOT NULL,
    -- The key is refused from then on; null: it does not expire.
    expires_at timestamptz,
    -- Accurate to a minute; null: never used.
    last_used_at timestamptz,
    -- When the key was revoked; null: it is valid. The row remains so that names in old logs can be resolved.
    revoked_at timestamptz
);
