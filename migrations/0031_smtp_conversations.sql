-- SMTP conversations: the commands and replies of failed attempts, and of the attempts of lanes that are traced on request
-- (POST /v1/lanes/{id}/trace).

-- One row per attempt and recipient, written in the transaction that records the outcome. A successful attempt of a lane that is not
-- traced has no row. Rows are deleted after [retention] conversations.
CREATE TABLE smtp_conversations (
    tenant_id uuid NOT NULL,
    -- messages.id.
    message_id uuid NOT NULL,
    -- recipients.id.
    recipient_id uuid NOT NULL,
    -- Number of the attempt, from 1 (events.attempt).
    attempt smallint NOT NULL,
    -- When the outcome was recorded.
    recorded_at timestamptz NOT NULL,
    -- {"lines": [[milliseconds, direction, text], …], "omitted": number of lines that were left out, "omitted_after": number of lines
    -- before them}. The milliseconds count from the start of the connection, or of the message if it used an open one. The direction is > (sent by Postrider), < (sent by the server) or * (a note of Postrider). At most
    -- 100 lines and 8 KiB, without the message and without credentials.
    conversation jsonb NOT NULL,
    -- Serves GET /v1/messages/{id}/attempts.
    PRIMARY KEY (message_id, recipient_id, attempt, tenant_id)
);
-- Serves the deletion of old rows.
CREATE INDEX smtp_conversations_recorded_at ON smtp_conversations (recorded_at);

-- Lanes whose attempts are traced. There are few rows, and each process reads all of them every two seconds while it sends.
CREATE TABLE lane_traces (
    tenant_id uuid NOT NULL,
    -- lanes.id.
    lane_id bigint PRIMARY KEY,
    -- Number of attempts still to be traced; 0: none.
    remaining integer NOT NULL CHECK (remaining BETWEEN 0 AND 100)
);
