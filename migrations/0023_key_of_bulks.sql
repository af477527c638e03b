-- The API key of each bulk.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- The API key (keys.id) that the bulk was sent with; null: an older version accepted it.
ALTER TABLE bulks ADD COLUMN key_id uuid;
