-- Secrets of webhook endpoints may be encrypted at rest: then they begin with 'PRSEAL1' and a zero byte, followed by nonce, text and
-- tag of AES-256-GCM. The bytes say it themselves, so that an earlier version that replaces one leaves nothing untrue behind.
ALTER TABLE webhook_endpoints
    DROP CONSTRAINT webhook_endpoints_secret_check,
    -- Not validated: every secret was within the narrower bounds.
    ADD CONSTRAINT webhook_endpoints_secret_check CHECK (octet_length(secret) BETWEEN 24 AND 100) NOT VALID;
COMMENT ON COLUMN webhook_endpoints.secret IS 'Signs every post (Standard Webhooks 1.0); encrypted where secret_key is configured.';
COMMENT ON COLUMN webhook_endpoints.old_secret IS 'The one before, removed when it signs no more; encrypted likewise.';
-- Whether the worker reads encrypted webhook secrets. False for workers of earlier versions: nothing is encrypted while one runs.
ALTER TABLE workers ADD COLUMN reads_sealed_secrets boolean NOT NULL DEFAULT false;
