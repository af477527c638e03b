-- The received message that an event is about.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- The received message (received_messages.id) of message.received; null: other events.
ALTER TABLE events ADD COLUMN received_id uuid;
