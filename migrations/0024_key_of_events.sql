-- The API key of the events about an API key.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- The API key (keys.id) of the types key.quota_warning and key.quota_reached, which are about an API key; null: other events.
ALTER TABLE events ADD COLUMN key_id uuid;
