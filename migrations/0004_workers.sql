-- Workers: processes that deliver messages and post to webhook endpoints.

-- One row per running worker. A worker without a heartbeat for lease_seconds counts as dead: another worker deletes its row and
-- releases the queue rows that it leased.
CREATE TABLE workers (
    -- A new id at each start. queue.lease and webhook_endpoints.lease refer to it.
    id uuid PRIMARY KEY,
    -- Host name, for the operator.
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL,
    -- Time of the last heartbeat, by the database's clock.
    heartbeat_at timestamptz NOT NULL,
    -- Whether the worker's version supports encrypted webhook secrets; true for every version since this column was added.
    -- While a worker without that support is registered, no webhook secret is encrypted, because that worker would sign with
    -- the ciphertext. Whether the worker has the right secret_key is in settings.
    reads_sealed_secrets boolean NOT NULL DEFAULT false,
    -- Seconds without a heartbeat after which the worker counts as dead; null: the lease time of the process that checks
    -- applies.
    lease_seconds double precision,
    -- Postrider's version; null: a version that did not record it.
    version text,
    -- Fingerprints of the settings that must be equal in all replicas, by name. Secrets cannot be derived from them.
    settings jsonb NOT NULL DEFAULT '{}'
);
