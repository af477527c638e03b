-- Idempotency keys: a repeated request with the same key and body gets the first response again.
CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    -- The Idempotency-Key header. If another API key used the same text first: this API key's id, a unit separator (U+001F,
    -- which no header can contain), and the text.
    key text NOT NULL CONSTRAINT idempotency_keys_key_check CHECK (length(key) BETWEEN 1 AND 289),
    -- SHA-256 of the request's bytes.
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- The messages that the request created: one, or those of a batch in the order of the request.
    message_ids uuid[] NOT NULL CHECK (cardinality(message_ids) > 0),
    created_at timestamptz NOT NULL,
    -- The API key that used it (keys.id); null: it counts for every API key of the tenant.
    api_key_id uuid,
    -- SHA-256 of the parsed request, so that the order of keys and white space do not matter; null: only fingerprint is
    -- compared.
    request_digest bytea,
    CONSTRAINT idempotency_keys_digest_check CHECK (octet_length(request_digest) = 32),
    -- Serves the look-up of a key, once per request that has one.
    PRIMARY KEY (tenant_id, key)
);
