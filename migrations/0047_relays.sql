-- Relaying: inbound routes that pass messages on to another server, what is passed on, and greylisting.

-- Of the tables in use, only one is locked: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

ALTER TABLE inbound_routes
    DROP CONSTRAINT inbound_routes_action_check,
    -- What happens with a message: webhook, store or relay. All store it and append an event; relay also passes it on.
    ADD CONSTRAINT inbound_routes_action_check CHECK (action IN ('webhook', 'store', 'relay')),
    -- The URL of the server to which messages are passed on, with its password; encrypted if secret_key is configured (prefix
    -- PRSEAL1 and a zero byte). Null: another action.
    ADD COLUMN relay_url bytea,
    -- The same URL without its password, as the API shows it.
    ADD COLUMN relay_to text,
    ADD CONSTRAINT inbound_routes_relay_check
        CHECK ((action = 'relay') = (relay_url IS NOT NULL) AND (relay_url IS NULL) = (relay_to IS NULL));

-- Received messages that are passed on: one row per recipient. A row is committed with its received message. A process with the API
-- creates the message (messages.id) that is sent, and, if that fails permanently, the report to the sender. Rows are deleted after
-- [retention] received, once their message has ended.
CREATE TABLE relays (
    tenant_id uuid NOT NULL,
    -- received_messages.id; the received message may have been deleted.
    received_id uuid NOT NULL,
    -- Position of the recipient among those of the message, from 0.
    position smallint NOT NULL,
    -- inbound_routes.id; the route may have been deleted. Null: the received message is a bounce to a rewritten sender (SRS).
    route_id uuid,
    -- The reverse path (MAIL FROM) of the received message; empty for the null sender.
    reverse_path text NOT NULL,
    -- The recipient; of a bounce, the sender that was rewritten.
    recipient text NOT NULL,
    -- The message that is sent; null: it is still to be created.
    message_id uuid,
    -- When the recipient bounced or expired, if a report to the sender is still to be considered; null: nothing is to be done.
    failed_at timestamptz,
    -- The report to the sender (messages.id); null: there is none.
    report_id uuid,
    -- No other process works on the row before this time.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Serves GET /v1/received/{id}.
    PRIMARY KEY (tenant_id, received_id, position)
);
-- Serves the process that creates messages and reports: the oldest rows with something to do.
CREATE INDEX relays_due ON relays (received_id) WHERE message_id IS NULL OR failed_at IS NOT NULL;
-- Serves the end of a message: whether it passes a received message on.
CREATE INDEX relays_message ON relays (message_id) WHERE message_id IS NOT NULL;

-- Greylisting (inbound.greylist): the clients, senders and recipients that were seen. Without addresses: the key is a keyed hash.
CREATE TABLE greylist (
    -- SHA-256 of the client's network, the reverse path and the recipient.
    key bytea PRIMARY KEY,
    -- When it was first seen.
    first_seen_at timestamptz NOT NULL,
    -- When a message was first accepted; null: not yet.
    passed_at timestamptz,
    -- When the row is deleted.
    expires_at timestamptz NOT NULL
);
-- Serves the deletion of expired rows.
CREATE INDEX greylist_expires ON greylist (expires_at);
