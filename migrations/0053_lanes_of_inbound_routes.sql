-- Lanes of inbound routes, in which received messages wait to be passed on.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- inbound: followed by the public id of the inbound route.
ALTER TABLE lanes DROP CONSTRAINT lanes_route_check;
ALTER TABLE lanes ADD CONSTRAINT lanes_route_check
    CHECK (route ~ '^(mx|relay|relay:[A-Za-z0-9_-]{1,64}|simulator|inbound:irt_[0-9a-f]{32})$') NOT VALID;
-- The lock of the first statement is held, but the table has few rows.
ALTER TABLE lanes VALIDATE CONSTRAINT lanes_route_check;
