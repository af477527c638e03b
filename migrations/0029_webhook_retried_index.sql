-- The later attempts of each webhook delivery.

-- Creating the index locks the log of webhook deliveries against writes; see 0022_key_of_messages.sql for the lock timeout.
SET LOCAL lock_timeout = '5s';

-- Serves /webhooks/{id}/events: the attempts after the first one, of one delivery. Most deliveries have none.
CREATE INDEX webhook_attempts_retried ON webhook_attempts (endpoint_id, seq, id) WHERE attempt > 1;
