-- Actions on all messages that match a filter (POST /v1/messages/actions). A background task of the API works on one action at a
-- time for a moment, some hundred recipients per transaction. The transaction that changes recipients also moves the position of
-- the action, so that another process can continue it at any time.

CREATE TABLE message_actions (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Only recipients of messages that were accepted before, or of bulks that were accepted before, are changed.
    created_at timestamptz NOT NULL,
    -- The API key of the request.
    key_id uuid NOT NULL,
    -- cancel: queued recipients are canceled. retry: deferred recipients, and those that could not be prepared, become due.
    -- release: recipients that are held for an operator become due.
    action text NOT NULL CHECK (action IN ('cancel', 'retry', 'release')),
    -- Which recipients (domain::message::action::ActionFilter); {}: all.
    filter jsonb NOT NULL,
    -- Only messages from senders in these domains: those of the API key; null: of all domains.
    sender_domains text[],
    -- running: recipients that match are looked for. done: all of them were examined. canceled: by request. failed: the
    -- database refused a statement several times.
    status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'done', 'canceled', 'failed')),
    -- What is examined: queue (in the order of its key), or uncertain (recipients with this status and on_uncertain = hold, which
    -- are not in the queue; only for release, after the queue).
    phase text NOT NULL DEFAULT 'queue' CHECK (phase IN ('queue', 'uncertain')),
    -- The last examined recipient: its message and its id. Zeros: none has been examined in this phase.
    last_message uuid NOT NULL,
    last_recipient uuid NOT NULL,
    -- Whether recipients of bulks were still to become messages when the examination of the queue began. It is then repeated.
    is_repeated boolean NOT NULL DEFAULT false,
    -- Number of recipients that matched; of these, how many were changed, and how many were not, because they were being sent.
    matched bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    -- Number of rows of the queue that were examined, and the estimated number of all rows when the action was created, of all
    -- tenants. For the estimated progress.
    examined bigint NOT NULL DEFAULT 0,
    queue_size bigint NOT NULL,
    -- Number of consecutive failures, without those while the database was unavailable; and the last error, null: none.
    failures smallint NOT NULL DEFAULT 0,
    error text,
    -- When it ended; null: it is running.
    finished_at timestamptz,
    -- Until when the process that works on the action has leased it; in the past: none has.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT message_actions_end_is_dated CHECK ((status = 'running') = (finished_at IS NULL)),
    -- Serves every lookup of an action by id, and GET /v1/actions (newest first).
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 50);

-- Serves the background task: the actions to work on.
CREATE INDEX message_actions_running ON message_actions (leased_until) WHERE status = 'running';
