-- The audit log: who changed what. The row of a request is inserted before the request's handler runs, so that no change is
-- without a row, and is completed when the handler has returned. Sending messages is not audited: see events.

CREATE TABLE audit_log (
    -- UUIDv7; its time is when the request began.
    id uuid NOT NULL,
    -- The tenant of the API key; of a test key, too, the live tenant. Of a command, the default tenant.
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- live: a live key, or a command. test: a test key, so that the change is about test data.
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    created_at timestamptz NOT NULL,
    -- api: the HTTP API. resend: the API that is compatible with Resend's. cli: a command. dashboard: the dashboard.
    source text NOT NULL CHECK (source IN ('api', 'resend', 'cli', 'dashboard')),
    -- The API key (keys.id); null: a command.
    key_id uuid,
    -- The name of the API key at that time; of a command, the name of the user of the operating system. Null: unknown.
    actor_name text,
    -- The address of the client; null: unknown, or a command.
    remote_address text,
    -- The header User-Agent, at most 256 characters; null: none.
    user_agent text,
    -- X-Request-Id; null: a command.
    request_id text,
    -- The operation's id in the OpenAPI document, such as revoke_key.
    action text NOT NULL,
    -- The id, name or address of the object; null: several, or none was created.
    object text,
    -- The tenant that an operator changed, or whose API key an operator changed; null: the one of tenant_id.
    object_tenant_id uuid,
    -- The object before and after the change, without secrets, at most 8 KiB each; null: it did not exist, or is not recorded.
    before jsonb,
    after jsonb,
    -- started: the handler has not returned, or its process died, or its client disconnected; the change may have been made.
    -- done: the request succeeded. refused: it was refused with a 4xx status, and changed nothing. failed: it failed with a 5xx
    -- status; the change may have been made.
    result text NOT NULL DEFAULT 'started' CHECK (result IN ('started', 'done', 'refused', 'failed')),
    -- The HTTP status of the response; null: none, or a command.
    status smallint,
    -- Serves GET /v1/audit (newest first), the completion of a row, and deleting old rows of a tenant.
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 80);

-- Serve the filters of GET /v1/audit: the changes by a key, the changes of an object, and changes of one kind.
CREATE INDEX audit_log_key ON audit_log (tenant_id, key_id, id);
CREATE INDEX audit_log_object ON audit_log (tenant_id, object, id);
CREATE INDEX audit_log_action ON audit_log (tenant_id, action, id);
