-- Posts that failed and are tried again, one row a post; gone once it succeeds or is given up. Few: while an endpoint fails
-- altogether its cursor stays where it is.
CREATE TABLE webhook_retries (
    endpoint_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- The first of its events: with the endpoint it names the post (`webhook-id`).
    seq bigint NOT NULL,
    -- All of its events, in order.
    seqs bigint[] NOT NULL CHECK (cardinality(seqs) BETWEEN 1 AND 100),
    -- Tries so far.
    attempts smallint NOT NULL CHECK (attempts > 0),
    -- When the next one may start.
    due_at timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, seq, tenant_id)
);
CREATE INDEX webhook_retries_due ON webhook_retries (endpoint_id, due_at);
