-- What was accepted. Never changes, but for scheduled_at of a message that waits.
CREATE TABLE messages (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    content_id uuid NOT NULL,
    stream text NOT NULL,
    from_address text NOT NULL,
    from_name text,
    -- [{"email", "name"}].
    reply_to jsonb NOT NULL,
    subject text NOT NULL,
    -- [{"name", "value"}], for the sender's own use.
    tags jsonb NOT NULL,
    -- An object of strings, for the sender's own use.
    metadata jsonb NOT NULL,
    -- Not before.
    scheduled_at timestamptz,
    -- Not after.
    expires_at timestamptz,
    -- When the link dies after the final dot: retry (again, same Message-ID), hold (an operator decides), fail.
    on_uncertain text NOT NULL CHECK (on_uncertain IN ('retry', 'hold', 'fail')),
    -- Octets of text, html and attachments.
    size bigint NOT NULL,
    -- Serves look-ups and the list, newest first. The id first, as in contents.
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE messages_default PARTITION OF messages DEFAULT;
