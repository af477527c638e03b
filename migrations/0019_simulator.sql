-- Simulator addresses (SCRIPT@simulator.postrider.test): a route of its own, whose last hop is built in.

-- simulator: the recipient's address says how its attempts end; nothing is sent.
ALTER TABLE lanes DROP CONSTRAINT lanes_route_check;
ALTER TABLE lanes ADD CONSTRAINT lanes_route_check
    CHECK (route ~ '^(mx|relay|relay:[A-Za-z0-9_-]{1,64}|simulator)$') NOT VALID;
ALTER TABLE lanes VALIDATE CONSTRAINT lanes_route_check;

-- What follows a simulated delivery: a bounce, a complaint, an automatic reply, or the use of the unsubscribe link. A row is
-- written before the delivery is recorded, and deleted once it has taken effect.
CREATE TABLE simulator_followups (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- messages.id. There is no foreign key, because messages are partitioned; without its message a row has no effect.
    message_id uuid NOT NULL,
    -- recipients.id.
    recipient_id uuid NOT NULL,
    -- When it happens, or is tried again.
    due_at timestamptz NOT NULL,
    -- Until when a worker has leased it; null or in the past: none has.
    leased_until timestamptz,
    -- The envelope's recipient of the report: the return path; null for complaints, which go to a feedback loop.
    envelope_to text,
    -- The report as its sender would send it (MIME); null: unsubscribe_token is set.
    report bytea,
    -- The token of the unsubscribe link that is used; null: report is set.
    unsubscribe_token text,
    PRIMARY KEY (tenant_id, message_id, recipient_id),
    CHECK (num_nonnulls(report, unsubscribe_token) = 1)
);

-- Serves simulator_followups.claim: the earliest follow-ups that are due.
CREATE INDEX simulator_followups_due ON simulator_followups (due_at);
