-- Messages, their recipients and their content.
--
-- contents, messages and recipients are partitioned by week (see ensure_partition), so that old data can be deleted by dropping
-- partitions. The time inside their UUIDv7 keys is the partition key. Their primary keys begin with that key and end with
-- tenant_id: a new partition has no statistics, and the planner would otherwise assume that tenant_id selects few rows.

-- Attachments. A tenant's attachment is stored once, even if several messages refer to it. The row is inserted after the last
-- chunk.
CREATE TABLE blobs (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- SHA-256 of the bytes.
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- Number of bytes in all chunks.
    size bigint NOT NULL,
    -- When a request last used the attachment, accurate to 6 hours. The service never deletes attachments. An operator may
    -- delete one that no message refers to, if used_at is more than a day ago.
    used_at timestamptz NOT NULL,
    -- Serves the check whether an attachment is already stored.
    PRIMARY KEY (tenant_id, sha256)
);

-- The bytes of attachments, at most one mebibyte per row, so that statements and buffers have a bounded size.
CREATE TABLE blob_chunks (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    -- Position of the chunk, from 0.
    n integer NOT NULL,
    data bytea NOT NULL,
    -- Serves reading an attachment chunk by chunk.
    PRIMARY KEY (tenant_id, sha256, n)
);
-- Stored without compression, because most attachments are compressed already.
ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Bodies, custom headers and attachment lists. Immutable. Each message has its own row with the same id.
CREATE TABLE contents (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- The plain text body; null: none.
    text text,
    -- The HTML body; null: none.
    html text,
    -- Custom headers, [{"name", "value"}], in the order of the request.
    headers jsonb NOT NULL,
    -- [{"filename", "content_type", "content_id", "sha256", "size"}], in the order of the request; sha256 is in hexadecimal
    -- and refers to blobs.sha256.
    attachments jsonb NOT NULL,
    -- Serves loading a message's content.
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE contents_default PARTITION OF contents DEFAULT;

-- lz4 compresses about ten times as fast as pglz. A Postgres server built without lz4 uses its default.
DO $$ BEGIN
    ALTER TABLE contents ALTER COLUMN text SET COMPRESSION lz4, ALTER COLUMN html SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- Accepted messages. Immutable except for scheduled_at, which changes when a scheduled message is rescheduled.
CREATE TABLE messages (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- contents.id.
    content_id uuid NOT NULL,
    -- streams.name.
    stream text NOT NULL,
    -- Address and display name of the From header; from_name is null without a display name.
    from_address text NOT NULL,
    from_name text,
    -- Addresses of the Reply-To header, [{"email", "name"}].
    reply_to jsonb NOT NULL,
    subject text NOT NULL,
    -- Tags set by the application, [{"name", "value"}].
    tags jsonb NOT NULL,
    -- Metadata set by the application, an object of strings.
    metadata jsonb NOT NULL,
    -- No attempt is made before this time; null: the message is due at once.
    scheduled_at timestamptz,
    -- No attempt is started after this time; null: only the retry window limits the attempts.
    expires_at timestamptz,
    -- What happens if the connection drops between the message body and the final reply. retry: the message is sent again with
    -- the same Message-ID. hold: the recipient becomes uncertain, and an operator can requeue it. fail: the recipient becomes
    -- uncertain.
    on_uncertain text NOT NULL CHECK (on_uncertain IN ('retry', 'hold', 'fail')),
    -- Sum of the bytes of text, html and attachments.
    size bigint NOT NULL,
    -- Whether the message is sent to suppressed addresses too, such as a legal notice. Setting it needs the scope admin.
    ignore_suppression boolean NOT NULL DEFAULT false,
    -- Whether the message carries an unsubscribe link. Fixed at acceptance (see streams.unsubscribe), so that every attempt
    -- sends the same bytes.
    unsubscribe boolean NOT NULL DEFAULT false,
    -- Serves GET /v1/messages/{id} and GET /v1/messages (newest first).
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE messages_default PARTITION OF messages DEFAULT;

-- The state of each recipient of each message.
CREATE TABLE recipients (
    -- messages.id.
    message_id uuid NOT NULL,
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- Position in the request's list of recipients (to, then cc, then bcc), from 0.
    position smallint NOT NULL,
    -- to, cc: the header that contains the address. bcc: no header contains it.
    kind text NOT NULL CHECK (kind IN ('to', 'cc', 'bcc')),
    address text NOT NULL,
    -- Display name; null: none.
    name text,
    -- In the queue: queued (no attempt so far), deferred (the last attempt failed temporarily). End states: relayed (a relay
    -- accepted the message), delivered (the recipient's server accepted it), bounced (refused permanently), expired (the retry
    -- window or expires_at ended), suppressed (the address is on the suppression list), canceled (by request), uncertain (the
    -- connection dropped before the final reply). The states scheduled and sending are computed from the queue
    -- (recipient_status) and never stored.
    status text NOT NULL CHECK (status IN ('queued', 'deferred', 'relayed', 'delivered', 'bounced', 'expired',
                                           'suppressed', 'canceled', 'uncertain')),
    -- Number of recorded attempts.
    attempts smallint NOT NULL DEFAULT 0,
    -- When the last recorded attempt started; null: no attempt so far.
    last_attempt_at timestamptz,
    -- When the recipient reached its end state; null: it is still in the queue.
    finished_at timestamptz,
    -- The last reply. If Postrider supplied the text, as after a timeout, the code is null; the enhanced code may still be set
    -- (5.1.10 for a null MX).
    response_code smallint,
    response_enhanced text,
    response_text text,
    -- Host of the last attempt, and the TLS version and cipher of its connection; tls null: no TLS.
    mx text,
    tls text,
    -- When a DSN last changed the end state, for example from relayed to bounced; null: no DSN changed it. The response columns
    -- then contain the reply that the DSN quotes, and finished_at equals reported_at.
    reported_at timestamptz,
    -- When the first complaint of this recipient (feedback report) was recorded; null: no complaint. A complaint does not
    -- change the status, and further complaints add no event.
    complained_at timestamptz,
    -- Reports (bounced, delivered, complained) that came to a return path which other recipients of the message know too, so
    -- that one of them may have forged the report. Such a report changes no state. The first of each kind adds an event and is
    -- listed here; a repeated one is ignored. Null: none.
    unvouched text[],
    -- Serves loading a message's recipients and recording the outcome of an attempt.
    PRIMARY KEY (message_id, id, tenant_id),
    CONSTRAINT recipients_end_is_dated CHECK ((status IN ('queued', 'deferred')) = (finished_at IS NULL))
) PARTITION BY RANGE (message_id);
CREATE TABLE recipients_default PARTITION OF recipients DEFAULT;

-- Serves GET /v1/messages?to=.
CREATE INDEX recipients_address ON recipients (lower(address), tenant_id, message_id);
-- Serves GET /v1/messages?status= for statuses that few messages have.
CREATE INDEX recipients_notable ON recipients (status, tenant_id, message_id)
    WHERE status NOT IN ('queued', 'relayed', 'delivered');
