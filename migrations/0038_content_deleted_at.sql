-- When the content of a message was deleted by itself.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- When the message's content was deleted: by retention, if its week could not be dropped as a whole, or by request. Null: it was not, or
-- together with its week (retention_weeks).
ALTER TABLE messages
    ADD COLUMN content_deleted_at timestamptz,
    -- When the message was redacted (POST /v1/messages/{id}/redact); null: it was not.
    ADD COLUMN redacted_at timestamptz;
