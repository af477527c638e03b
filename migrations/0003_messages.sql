-- Messages, their recipients and their content.
--
-- contents, messages and recipients are partitioned by week (see ensure_partition), so that retention can drop old
-- partitions. The time inside their UUIDv7 keys is the partition key. Their primary keys begin with the message's id:
-- a new partition has no statistics yet, and the planner must not take tenant_id for the selective column.

-- Attachments, stored once per tenant however many messages refer to them. A row exists once all its chunks do.
CREATE TABLE blobs (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- SHA-256 of the bytes.
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- Bytes in all chunks.
    size bigint NOT NULL,
    -- When a request last used the attachment. It can be deleted if no message refers to it and this is a day ago.
    used_at timestamptz NOT NULL,
    -- Serves the check whether an attachment is already stored.
    PRIMARY KEY (tenant_id, sha256)
);

-- The bytes of attachments, one mebibyte per row, so that no statement, buffer or transaction grows with an attachment.
CREATE TABLE blob_chunks (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    -- Position of the chunk, from 0.
    n integer NOT NULL,
    data bytea NOT NULL,
    -- Serves reading an attachment chunk by chunk.
    PRIMARY KEY (tenant_id, sha256, n)
);
-- Most attachments are compressed already.
ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Bodies and headers. Immutable, and shared by all messages of a bulk request.
CREATE TABLE contents (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- The plain text body; null: none.
    text text,
    -- The HTML body; null: none.
    html text,
    -- Custom headers, [{"name", "value"}] in the order of the request.
    headers jsonb NOT NULL,
    -- [{"filename", "content_type", "content_id", "sha256", "size"}] in the order of the request; sha256 is in blobs.
    attachments jsonb NOT NULL,
    -- Serves loading a message's content.
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE contents_default PARTITION OF contents DEFAULT;

-- lz4 takes a tenth of the time of pglz. A Postgres built without it keeps its default.
DO $$ BEGIN
    ALTER TABLE contents ALTER COLUMN text SET COMPRESSION lz4, ALTER COLUMN html SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- Accepted messages. Immutable except for scheduled_at, which changes when a waiting message is rescheduled.
CREATE TABLE messages (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- contents.id.
    content_id uuid NOT NULL,
    -- streams.name.
    stream text NOT NULL,
    -- The From header's address and display name; from_name is null if there is none.
    from_address text NOT NULL,
    from_name text,
    -- [{"email", "name"}].
    reply_to jsonb NOT NULL,
    subject text NOT NULL,
    -- [{"name", "value"}], set by the application.
    tags jsonb NOT NULL,
    -- An object of strings, set by the application.
    metadata jsonb NOT NULL,
    -- The first attempt is not made before then; null: at once.
    scheduled_at timestamptz,
    -- No attempt is made after then; null: the retry window alone decides.
    expires_at timestamptz,
    -- What happens if the connection drops between the message's end and the final reply. retry: send again with the same
    -- Message-ID. hold: wait for an operator. fail: end as uncertain.
    on_uncertain text NOT NULL CHECK (on_uncertain IN ('retry', 'hold', 'fail')),
    -- Bytes of text, html and attachments.
    size bigint NOT NULL,
    -- Sent even to suppressed addresses, such as a legal notice. Needs the scope admin.
    ignore_suppression boolean NOT NULL DEFAULT false,
    -- Whether the message carries an unsubscribe link: streams.unsubscribe at the time of acceptance, so that every attempt
    -- sends the same bytes.
    unsubscribe boolean NOT NULL DEFAULT false,
    -- Serves GET /v1/messages/{id}, and the list, newest first.
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE messages_default PARTITION OF messages DEFAULT;

-- The state of each recipient of each message.
CREATE TABLE recipients (
    -- messages.id.
    message_id uuid NOT NULL,
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- Position in the request, over to, cc and bcc.
    position smallint NOT NULL,
    -- to, cc: the header that names the recipient. bcc: no header does.
    kind text NOT NULL CHECK (kind IN ('to', 'cc', 'bcc')),
    address text NOT NULL,
    -- Display name; null: none.
    name text,
    -- In the queue: queued (no attempt so far), deferred (the last attempt failed temporarily). End states: relayed (a relay
    -- accepted the message), delivered (the recipient's server accepted it), bounced (refused for good), expired (the retry
    -- window or expires_at ended), suppressed (the address is on the suppression list), canceled (by request), uncertain (the
    -- connection dropped before the final reply). The states scheduled and sending are computed from the queue
    -- (recipient_status) and never stored.
    status text NOT NULL CHECK (status IN ('queued', 'deferred', 'relayed', 'delivered', 'bounced', 'expired',
                                           'suppressed', 'canceled', 'uncertain')),
    -- Attempts made.
    attempts smallint NOT NULL DEFAULT 0,
    -- When the last attempt began; null: none so far.
    last_attempt_at timestamptz,
    -- When the end state was reached; null: still in the queue.
    finished_at timestamptz,
    -- The last reply: code and enhanced code are null if the text is Postrider's own, as after a timeout.
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host of the last attempt, and its TLS version and cipher.
    mx text,
    tls text,
    -- When a DSN last changed the end state, as from relayed to bounced; null: no DSN did. The last reply is then that of
    -- the DSN, and finished_at its time.
    reported_at timestamptz,
    -- When a feedback loop first reported a complaint of this recipient; null: no complaint. The status does not change.
    -- Later complaints add no event.
    complained_at timestamptz,
    -- Reports (bounced, delivered, complained; each at most once) by a return path that other recipients of the message know
    -- too, and may have forged. They change no state; each is one event, and being listed here keeps it to one. Null: none.
    unvouched text[],
    -- Serves loading a message's recipients, and the outcome of an attempt.
    PRIMARY KEY (message_id, id, tenant_id),
    CONSTRAINT recipients_end_is_dated CHECK ((status IN ('queued', 'deferred')) = (finished_at IS NULL))
) PARTITION BY RANGE (message_id);
CREATE TABLE recipients_default PARTITION OF recipients DEFAULT;

-- Serves GET /v1/messages?to=.
CREATE INDEX recipients_address ON recipients (lower(address), tenant_id, message_id);
-- Serves GET /v1/messages?status= for the statuses of few messages.
CREATE INDEX recipients_notable ON recipients (status, tenant_id, message_id)
    WHERE status NOT IN ('queued', 'relayed', 'delivered');
