-- Tenants and their API keys.

-- The owners of all data. Every table with data of a tenant has a column tenant_id, so that the schema can be sharded by
-- tenant.
CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    -- A label for the operator.
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
    -- send: submit, cancel, reschedule and retry messages. read: read messages, events and state. admin: everything, including
    -- settings and API keys.
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['send', 'read', 'admin'] AND cardinality(scopes) > 0),
    -- Domains that the key may send from, as A-labels. The key reads only messages and events from these domains, and its scope
    -- admin counts as send and read. Null: no restriction.
    sender_domains text[],
    created_at timestamptz NOT NULL,
    -- The key is refused at and after this time; null: it does not expire.
    expires_at timestamptz,
    -- When a request last used the key, accurate to a minute; null: never.
    last_used_at timestamptz,
    -- When the key was revoked; null: it is not revoked. A revoked key is kept, so that key ids in old logs can be resolved.
    revoked_at timestamptz
);
