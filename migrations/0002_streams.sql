-- What kind of mail: password resets must not wait behind newsletters.
CREATE TABLE streams (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Letters, digits, '-' and '_'.
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- Lower goes first.
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

INSERT INTO streams (tenant_id, name, priority, created_at) VALUES
    ('00000000-0000-0000-0000-000000000000', 'transactional', 10, now()),
    ('00000000-0000-0000-0000-000000000000', 'bulk', 50, now());
