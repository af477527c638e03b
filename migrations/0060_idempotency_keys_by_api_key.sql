-- Whose an Idempotency-Key is, and what it is compared by. Both are null in rows of earlier versions, which hold for every API
-- key of the tenant and are compared by `fingerprint` alone.
ALTER TABLE idempotency_keys
    -- The API key that used it. Another API key that uses the same text gets a row of its own, whose `key` is its id, a unit
    -- separator (U+001F, which no header can hold) and the text.
    ADD COLUMN api_key_id uuid,
    -- SHA-256 of the parsed request: the order of keys and white space do not matter.
    ADD COLUMN request_digest bytea,
    DROP CONSTRAINT idempotency_keys_key_check,
    -- Not validated, so that the table is not read under its lock.
    ADD CONSTRAINT idempotency_keys_key_check CHECK (length(key) BETWEEN 1 AND 289) NOT VALID,
    ADD CONSTRAINT idempotency_keys_digest_check CHECK (octet_length(request_digest) = 32) NOT VALID;
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of the request''s bytes.';
