-- What was put off for another reason than its sender's `scheduled_at` (a worker died of it or near it, and few of those are
-- tried at a time) is queued, not scheduled: recipient_status is asked with the time at which the first attempt could start.
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
