-- The API key of each message.

-- One table per migration: a transaction that locks several tables in use can deadlock with the running version. Requests that use
-- the table wait while this migration waits for its lock, so it fails rather than waiting for long behind another transaction:
-- nothing is changed then, and the migration can be run again.
SET LOCAL lock_timeout = '5s';

-- The API key (keys.id) that the message was sent with; null: an older version accepted it. Not indexed: the filter of
-- GET /v1/messages?key= examines the newest messages, as those by stream, sender and tag do.
ALTER TABLE messages ADD COLUMN key_id uuid;
