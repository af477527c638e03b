-- Processes that deliver.

-- One row per running worker. A worker that is silent for lease_seconds is dead: others release what it has leased.
CREATE TABLE workers (
    -- New at each start; the value of queue.lease and webhook_endpoints.lease.
    id uuid PRIMARY KEY,
    -- Where it runs, for the operator.
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL,
    -- When it last reported, by the database's clock.
    heartbeat_at timestamptz NOT NULL,
    -- Whether it can decrypt webhook secrets. No secret is encrypted while a worker runs that cannot.
    reads_sealed_secrets boolean NOT NULL DEFAULT false,
    -- Seconds of silence after which it counts as dead; null: the lease of the worker that asks applies.
    lease_seconds double precision,
    -- The version of Postrider that it runs.
    version text,
    -- Fingerprints of the settings that must be equal in all replicas, by name. They reveal no secret.
    settings jsonb NOT NULL DEFAULT '{}'
);
