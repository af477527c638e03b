-- Requests that named an Idempotency-Key: the same key and body get the first answer again.
CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
    -- SHA-256 of the request.
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- What it made: one message, or those of a batch in the order of the request.
    message_ids uuid[] NOT NULL CHECK (cardinality(message_ids) > 0),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
