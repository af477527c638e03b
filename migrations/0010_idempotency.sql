-- Idempotency keys. A request that repeats a key and the body of an earlier request creates no message: its response is that of
-- the message that the earlier request created.
CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    -- The value of the Idempotency-Key header. If another API key of the tenant used the same value first: this API key's id in
    -- hexadecimal, a unit separator (U+001F, which no header can contain), and the value.
    key text NOT NULL CONSTRAINT idempotency_keys_key_check CHECK (length(key) BETWEEN 1 AND 289),
    -- SHA-256 of the request body's bytes.
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- The id of the message that the request created, as the only element.
    message_ids uuid[] NOT NULL CHECK (cardinality(message_ids) > 0),
    created_at timestamptz NOT NULL,
    -- The API key of the request (keys.id). Null: stored by a version without this column; the row then applies to every API
    -- key of the tenant.
    api_key_id uuid,
    -- SHA-256 of the parsed request body: a repeated request matches even if white space or the order of JSON keys differs.
    -- Null: only fingerprint is compared.
    request_digest bytea,
    CONSTRAINT idempotency_keys_digest_check CHECK (octet_length(request_digest) = 32),
    -- Serves the lookup of a key, once per request with an Idempotency-Key header.
    PRIMARY KEY (tenant_id, key)
);
