-- A recipient's status as shown: scheduled and sending follow from its row in the queue. One that is held is due never,
-- and has not been given a time by anybody.
CREATE FUNCTION recipient_status(stored text, lease uuid, due_at timestamptz, at timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN lease IS NOT NULL THEN 'sending'
        WHEN stored = 'queued' AND due_at > at AND due_at < 'infinity' THEN 'scheduled'
        ELSE stored
    END;

-- A message's status, for the filter of the list; domain::delivery::MessageStatus is the same rule and a test holds
-- the two together.
CREATE FUNCTION message_status(tenant uuid, message uuid, at timestamptz) RETURNS text
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
            SELECT array_agg(DISTINCT recipient_status(r.status, q.lease, q.due_at, at)) AS all_of
            FROM recipients r
            LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
            WHERE r.tenant_id = tenant AND r.message_id = message
        ) s
    );
