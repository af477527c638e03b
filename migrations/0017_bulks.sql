-- Bulks: one message to many recipients (POST /v1/messages/bulk). Each recipient becomes a message of its own. A bulk and its
-- recipients are committed at once; a background task of the API then turns the recipients into messages, some hundred per
-- transaction, so that no transaction holds the event counter for long.

CREATE TABLE bulks (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    -- active: recipients become messages, and these are sent. paused: nothing is sent until the bulk is resumed. canceled: no
    -- further message is sent.
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'canceled')),
    -- When state last changed.
    state_changed_at timestamptz NOT NULL,
    -- When the pause that was ended last began, until the recipients that it held are released; null: none is held.
    resumed_from timestamptz,
    -- contents.id of all of its messages.
    content_id uuid NOT NULL,
    -- streams.name.
    stream text NOT NULL,
    -- Domain of the From header, the same for all of its messages.
    from_domain text NOT NULL,
    -- No attempt is made before this time; null: the messages are due at once.
    scheduled_at timestamptz,
    -- The template and the version that its messages are rendered from; null: it has no template.
    template_id uuid,
    template_version integer,
    -- What its messages have in common besides the columns above and the content (domain::bulk::SharedMessage).
    message jsonb NOT NULL,
    -- Number of recipients that become messages.
    accepted integer NOT NULL CHECK (accepted >= 0),
    -- Number of recipients whose idempotency key was used by an earlier message.
    replayed integer NOT NULL CHECK (replayed >= 0),
    -- Number of refused recipients, and these recipients as in the response: [{"index", "errors"}].
    rejected integer NOT NULL CHECK (rejected >= 0),
    refused jsonb NOT NULL,
    -- Since when the background task has nothing to do for the bulk. Active: all recipients are messages. Paused: none of them
    -- is being sent, so that no further one must be held. Canceled: all recipients have reached an end state. Null: it has
    -- something to do.
    settled_at timestamptz,
    -- Until when the process that works on the bulk has leased it; in the past: none has.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT bulks_template_whole CHECK ((template_id IS NULL) = (template_version IS NULL)),
    -- Serves every lookup of a bulk by id, and GET /v1/bulks (newest first).
    PRIMARY KEY (tenant_id, id)
);

-- Serves the background task: the bulks that it has something to do for.
CREATE INDEX bulks_unsettled ON bulks (leased_until) WHERE settled_at IS NULL;

-- Recipients of bulks that are not messages yet. The transaction that inserts the message deletes the row.
CREATE TABLE bulk_recipients (
    -- bulks.id.
    bulk_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- Position in the request, from 0.
    position integer NOT NULL,
    address text NOT NULL,
    -- Display name; null: none.
    name text,
    -- Its own template variables, an object; null: the bulk has no template.
    variables jsonb,
    -- Its own metadata, an object of strings; null: none.
    metadata jsonb,
    -- Serves reading the recipients in the order of the request, and deleting them.
    PRIMARY KEY (bulk_id, position)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- The bulk of a message (bulks.id), and its own template variables, an object; bulk_id null: it belongs to no bulk. With
-- variables, the bodies are rendered from them and contents.template when the message is sent; null: the bodies are in contents.
ALTER TABLE messages ADD COLUMN bulk_id uuid, ADD COLUMN variables jsonb;

-- The messages of each bulk. A table of its own, because an index on messages would be built under a lock, and would cost every
-- message.
CREATE TABLE bulk_messages (
    -- bulks.id.
    bulk_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- messages.id.
    message_id uuid NOT NULL,
    -- Serves the messages of a bulk: its counts, GET /v1/messages?bulk=, pausing and canceling.
    PRIMARY KEY (bulk_id, message_id)
);

-- What the bodies of all messages with this content are rendered from: {"compiled", "variables"}, the compiled template
-- (template_versions.compiled) and the variables that they have in common. A copy, so that a template can be deleted. Null: the
-- bodies are in the row.
ALTER TABLE contents ADD COLUMN template jsonb;
DO $$ BEGIN
    ALTER TABLE contents ALTER COLUMN template SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- The bulk that a request or a recipient with the key belongs to. The messages of a bulk are created later, so message_ids then
-- has only an id that identifies the use of the key. The key is kept as long as the bulk. Null: it belongs to no bulk.
ALTER TABLE idempotency_keys ADD COLUMN bulk_id uuid;
