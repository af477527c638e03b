-- Receiving: inbound routes, and the messages that were received for them.

-- Which addresses receive messages (/v1/inbound-routes). Of the routes of a tenant that match an address, the most specific one
-- counts: exact, then plus, then wildcard.
CREATE TABLE inbound_routes (
    tenant_id uuid NOT NULL,
    -- UUIDv7.
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- The part after the @: lower case, A-labels.
    domain text NOT NULL,
    -- exact (local is the whole local part), plus (the local part begins with local and a +), or wildcard (every local part).
    kind text NOT NULL CHECK (kind IN ('exact', 'plus', 'wildcard')),
    -- In lower case; of a wildcard, empty.
    local text NOT NULL,
    -- What happens with a message: webhook or store. Both store it and append an event; webhook says that the application waits
    -- for the post of this event.
    action text NOT NULL CHECK (action IN ('webhook', 'store')),
    CHECK ((kind = 'wildcard') = (local = '')),
    -- Serves /v1/inbound-routes.
    PRIMARY KEY (tenant_id, id)
);
-- Serves the look-up at RCPT, and keeps two routes of a tenant from having the same match.
CREATE UNIQUE INDEX inbound_routes_match ON inbound_routes (domain, tenant_id, kind, local);

-- Messages that were received over SMTP for an inbound route: one row per message and route. The row is committed, with its event
-- message.received, before the sending server gets 250. Rows are deleted after [retention] received.
CREATE TABLE received_messages (
    tenant_id uuid NOT NULL,
    -- UUIDv7, which has the time of receipt.
    id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    -- inbound_routes.id; the route may have been deleted.
    route_id uuid NOT NULL,
    -- The reverse path (MAIL FROM); empty for the null sender.
    envelope_from text NOT NULL,
    -- The recipients (RCPT TO) that the route matched, as the client wrote them.
    envelope_to text[] NOT NULL,
    -- The client's name in EHLO or HELO, and its IP address.
    helo text NOT NULL,
    remote_address text NOT NULL,
    -- The first address and name in From; null: none can be read.
    from_address text,
    from_name text,
    -- Decoded Subject; empty: none.
    subject text NOT NULL,
    -- The Message-ID, without angle brackets; null: none.
    internet_message_id text,
    -- The ids in In-Reply-To and References, without angle brackets.
    in_reply_to text[] NOT NULL,
    "references" text[] NOT NULL,
    -- The message that this one answers (messages.id); null: unknown. It may have been deleted.
    answered_message_id uuid,
    -- The rule by which the message is an automatic reply; null: it is none.
    auto_reply text,
    -- All header fields in order, decoded: [{"name", "value"}, …].
    headers jsonb NOT NULL,
    -- The text and the HTML, decoded; null: none. Long ones are cut.
    text text,
    html text,
    -- The text without quoted earlier messages and without the signature; null: the message has no text.
    reply_text text,
    -- All other parts in order: [{"filename", "content_type", "content_id", "inline", "size"}, …].
    attachments jsonb NOT NULL,
    -- Verdicts of SPF, DKIM, DMARC and ARC; null: none were determined.
    authentication jsonb,
    -- Size of the message in bytes.
    size integer NOT NULL,
    -- The message as received.
    raw bytea NOT NULL,
    -- Serves /v1/received.
    PRIMARY KEY (tenant_id, id)
);
-- Serves GET /v1/received?route=.
CREATE INDEX received_messages_route ON received_messages (tenant_id, route_id, id);
-- Serves GET /v1/received?answers=.
CREATE INDEX received_messages_answered ON received_messages (tenant_id, answered_message_id, id)
    WHERE answered_message_id IS NOT NULL;
