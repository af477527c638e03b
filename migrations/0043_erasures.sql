-- Erasure of everything about one address (POST /v1/privacy/erase).

-- The secrets from which the pseudonyms of erased addresses are computed. A tenant has a row once an erasure was requested, so that the
-- look-ups of suppressions compute a pseudonym only then.
CREATE TABLE erasure_keys (
    -- Serves suppressions.check, suppressions.page, suppressions.for_address and suppressions.remove.
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- Random. Without it, nobody can test whether a pseudonym belongs to an address.
    key bytea NOT NULL CHECK (octet_length(key) = 32)
);

-- Returns the pseudonym that replaces an address (normalised as in suppressions.address): a keyed hash in the form of an address, whose
-- domain nobody can register (RFC 2606). Stable, because convert_to is.
CREATE FUNCTION erased_address(key bytea, address text) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN 'erased-' || encode(substr(sha256(key || sha256(key || convert_to(address, 'UTF8'))), 1, 16), 'hex') || '@erased.invalid';

-- Erasures. A background task of the API works on one at a time for a moment. The transaction that erases also moves the position, so that
-- another process can continue it at any time.
CREATE TABLE erasures (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Only messages that were accepted before, or messages of bulks that were, are erased.
    created_at timestamptz NOT NULL,
    -- The API key of the request.
    key_id uuid NOT NULL,
    -- The address; null: the erasure has ended.
    address text,
    -- What replaces the address (erased_address).
    pseudonym text NOT NULL,
    -- running: what contains the address is looked for. done: everything was erased. failed: the database refused a statement several times.
    status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'done', 'failed')),
    -- What is examined: suppressions; bulks (their recipients that are not messages yet); sql_inbox; messages; received (received
    -- messages); webhook_log; idempotency_keys; audit_log; texts (replies in lanes, errors of webhook endpoints, refused recipients of bulks, filters of actions).
    phase text NOT NULL DEFAULT 'suppressions'
        CHECK (phase IN ('suppressions', 'bulks', 'sql_inbox', 'messages', 'received', 'webhook_log', 'idempotency_keys', 'audit_log',
                         'texts')),
    -- The key of the last row that was examined in this phase; null: none.
    position text,
    -- Whether all phases were examined once, and messages that could not be erased then are examined again.
    is_repeated boolean NOT NULL DEFAULT false,
    -- Number of messages and actions that cannot be erased yet, because they have not ended, as of the last examination.
    waiting bigint NOT NULL DEFAULT 0,
    -- How much was erased (domain::erasure::ErasedCounts).
    counts jsonb NOT NULL DEFAULT '{}',
    -- Number of consecutive failures, without those while the database was unavailable; and the last error, null: none.
    failures smallint NOT NULL DEFAULT 0,
    error text,
    -- When it ended; null: it is running.
    finished_at timestamptz,
    -- Until when the process that works on the erasure has leased it; in the past: none has.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT erasures_end_is_dated CHECK ((status = 'running') = (finished_at IS NULL)),
    CONSTRAINT erasures_address_is_erased CHECK ((status = 'running') = (address IS NOT NULL)),
    -- Serves every lookup of an erasure by id, and GET /v1/privacy/erasures (newest first).
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 50);

-- Serves the background task: the erasures to work on.
CREATE INDEX erasures_running ON erasures (leased_until) WHERE status = 'running';
-- Serves suppressions.pseudonym: whether an address was erased.
CREATE INDEX erasures_pseudonym ON erasures (tenant_id, pseudonym);
