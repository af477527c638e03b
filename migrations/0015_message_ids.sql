-- The Message-ID of messages that were accepted as finished MIME with a Message-ID of their own. The Message-ID of every other
-- message is derived from its id and its sender's domain (domain::message_id), and not stored.

-- messages.internet_message_id: the Message-ID without its angle brackets; null: it is derived.
ALTER TABLE messages ADD COLUMN internet_message_id text;

-- Finds messages by a Message-ID that is not derived. It is a table and not an index on messages, so that messages without such
-- an id cost nothing. Partitioned by week (see ensure_partition), like messages.
CREATE TABLE custom_message_ids (
    -- messages.internet_message_id. Several messages may have the same one.
    message_id text NOT NULL,
    tenant_id uuid NOT NULL,
    -- messages.id.
    id uuid NOT NULL,
    -- Serves GET /v1/messages?message_id= and POST /v1/inbound, for a report that quotes a Message-ID.
    PRIMARY KEY (message_id, tenant_id, id)
) PARTITION BY RANGE (id);
CREATE TABLE custom_message_ids_default PARTITION OF custom_message_ids DEFAULT;
