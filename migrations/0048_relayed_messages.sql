-- Messages that pass a received message on.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

ALTER TABLE messages
    -- The received message (received_messages.id) that the message passes on; null: another message. It may have been deleted.
    ADD COLUMN received_id uuid,
    -- The inbound route (inbound_routes.id) whose server the message is sent to; null: its route is that of the configuration.
    ADD COLUMN inbound_route_id uuid;
