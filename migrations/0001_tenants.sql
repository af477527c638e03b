-- Whose data a row is. Every table carries tenant_id, so that the schema can be spread by tenant.
CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

-- The last event number given out to each tenant. A transaction adds to it as its last statement, so that event
-- numbers have no gaps and become visible in order. One narrow, often updated row a tenant: hence the fill factor.
CREATE TABLE event_counters (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

INSERT INTO tenants (id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000000', 'default', now());
INSERT INTO event_counters (tenant_id) VALUES ('00000000-0000-0000-0000-000000000000');
