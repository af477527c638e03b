ALTER TABLE queue
    -- Not after: the sender's expires_at, so that what waits behind a block or a pause expires in time.
    ADD expires_at timestamptz,
    -- Written before an attempt that a crash must be blamed on: the recipient was in hand at a crash before.
    ADD begun boolean NOT NULL DEFAULT false,
    -- Written before the mail's text is sent, where the sender asked for hold or fail: after a crash the recipient is
    -- uncertain instead of tried again.
    ADD data_started boolean NOT NULL DEFAULT false;

-- What waits already keeps to the time that its sender gave.
UPDATE queue SET expires_at = messages.expires_at
FROM messages WHERE messages.id = queue.message_id AND messages.expires_at IS NOT NULL;

-- Whose time runs out behind a pause or a block.
CREATE INDEX queue_expires ON queue (lane_id, expires_at) WHERE lease IS NULL AND expires_at IS NOT NULL;
