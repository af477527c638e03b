-- Rows of sql_inbox that wait for a quota or for a suspended tenant: polls no longer read all of them.

-- A call of postrider.send waits while this migration waits for its lock, so it fails rather than waiting for long behind an open
-- transaction of an application; it can then be run again.
SET LOCAL lock_timeout = '5s';

-- Number of recipients of a message that waits for a quota; null: the row does not wait for one, or the previous version let it wait.
ALTER TABLE sql_inbox ADD COLUMN recipients integer CHECK (recipients > 0);

-- quota: too few of the tenant's recipients of this day are left. tenant: the tenant is suspended.
ALTER TABLE sql_inbox DROP CONSTRAINT sql_inbox_waits_for_check;
ALTER TABLE sql_inbox ADD CONSTRAINT sql_inbox_waits_for_check CHECK (waits_for IN ('quota', 'tenant'));

-- Serves processes, which claim the oldest rows and the newest ones. The previous version, which also reads the rows that wait, uses
-- the primary key.
DROP INDEX sql_inbox_waiting;
CREATE INDEX sql_inbox_ready ON sql_inbox (id) WHERE refused_at IS NULL AND waits_for IS NULL;
-- Serves processes, which find the tenants with rows that wait, and claim the oldest rows of those whose reason has gone.
CREATE INDEX sql_inbox_waiting ON sql_inbox (tenant_id, id) WHERE refused_at IS NULL AND waits_for IS NOT NULL;
-- Serves GET /v1/messages/rejected, and the metrics and `postrider doctor`.
DROP INDEX sql_inbox_refused;
CREATE INDEX sql_inbox_refused ON sql_inbox (tenant_id, id) WHERE refused_at IS NOT NULL;
