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

-- A message is scheduled until its first attempt may start; one that was put off after a crash is not. So recipient_status
-- is asked with first_due_at from here on. Else as before.
CREATE OR REPLACE FUNCTION message_status(tenant uuid, message uuid, at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT CASE
            WHEN 'sending' = ANY (s.all_of) THEN 'sending'
            WHEN 'queued' = ANY (s.all_of) THEN 'queued'
            WHEN 'deferred' = ANY (s.all_of) THEN 'deferred'
            WHEN 'scheduled' = ANY (s.all_of) THEN 'scheduled'
            WHEN cardinality(s.all_of) = 1 THEN s.all_of[1]
            ELSE 'partial'
        END
        FROM (
            SELECT array_agg(DISTINCT recipient_status(r.status, q.lease, q.first_due_at, at)) AS all_of
            FROM recipients r
            LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
            WHERE r.tenant_id = tenant AND r.message_id = message
        ) s
    );
