-- Sessions of the dashboard.

-- The browsers that are signed in to the dashboard. Every replica reads this table, so that a session works on all of them. A
-- session acts as its API key: the lookup joins keys, so that a session ends when its key is revoked or expires. There is no
-- foreign key, which would lock keys while requests use it.
CREATE TABLE dashboard_sessions (
    -- SHA-256 of the token in the browser's cookie. The token itself is not stored. The primary key serves the lookup of each
    -- request to the dashboard (db::keys::sessions::find).
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    -- The tenant of the API key.
    tenant_id uuid NOT NULL,
    -- The API key (keys.id) that the session was started with.
    key_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    -- When a request last used the session, accurate to a minute. A session that is not used for 12 hours is refused.
    last_seen_at timestamptz NOT NULL,
    -- The session is refused at and after this time.
    expires_at timestamptz NOT NULL
);

-- Ends all sessions of a key (db::keys::sessions::remove_all).
CREATE INDEX dashboard_sessions_key ON dashboard_sessions (key_id);

-- Deletes expired sessions when a session is started (db::keys::sessions::insert).
CREATE INDEX dashboard_sessions_expires_at ON dashboard_sessions (expires_at);
