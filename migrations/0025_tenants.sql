-- Suspension, limits, weights and deletion of tenants.

-- Requests that create lanes, suppressions and other rows that refer to tenants wait while this migration waits for its lock on
-- tenants. Fails rather than waiting for long behind another transaction: nothing is changed then, and the migration can be run
-- again.
SET LOCAL lock_timeout = '5s';

-- Older versions insert no tenants, and ignore these columns: they send the messages of suspended tenants.
ALTER TABLE tenants
    -- Relative share of the workers' capacity among the tenants with due recipients of one priority.
    ADD COLUMN weight smallint NOT NULL DEFAULT 100 CHECK (weight BETWEEN 1 AND 1000),
    -- Maximum requests per second of all API keys together, over a long time and at once after a pause; both null: no limit.
    ADD COLUMN requests_per_second integer CHECK (requests_per_second > 0),
    ADD COLUMN burst integer CHECK (burst >= requests_per_second),
    -- Maximum recipients per day (UTC) of all API keys together; null: no limit.
    ADD COLUMN recipients_per_day integer CHECK (recipients_per_day > 0),
    -- When an operator suspended the tenant, and the reason that the operator gave; suspended_at null: not suspended. Nothing is
    -- accepted for a suspended tenant, and nothing is claimed from its lanes.
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN suspend_reason text,
    -- When an operator asked to delete the tenant; null: nobody did. Such a tenant is suspended and has no valid API keys, and
    -- workers delete its data (tenant_deletions).
    ADD COLUMN deleting_at timestamptz,
    -- When all data had been deleted; null: not yet. The row is kept, so that its id is not used again, and its name becomes the
    -- id, so that the name can be.
    ADD COLUMN deleted_at timestamptz,
    ADD CONSTRAINT tenants_rate_whole CHECK ((requests_per_second IS NULL) = (burst IS NULL)),
    ADD CONSTRAINT tenants_deleting_is_suspended CHECK (deleting_at IS NULL OR suspended_at IS NOT NULL),
    ADD CONSTRAINT tenants_deleted_was_deleting CHECK (deleted_at IS NULL OR deleting_at IS NOT NULL);

-- Replicas cache tenants together with their API keys, so a change of a tenant counts as a change of its keys (0021). Not for the
-- name and the weight, which are not cached.
CREATE TRIGGER tenants_changed AFTER UPDATE ON tenants FOR EACH ROW
    WHEN ((OLD.requests_per_second, OLD.burst, OLD.recipients_per_day, OLD.suspended_at, OLD.suspend_reason, OLD.deleting_at)
          IS DISTINCT FROM
          (NEW.requests_per_second, NEW.burst, NEW.recipients_per_day, NEW.suspended_at, NEW.suspend_reason, NEW.deleting_at))
    EXECUTE FUNCTION note_key_change();

-- How much of their limits the tenants have used, as key_usage for API keys; only of tenants with limits. The low fill factor
-- leaves space for versions of the row.
CREATE TABLE tenant_usage (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- The time up to which the rate is used up or has lapsed (domain::limits::gcra::Gcra).
    rate_used_until timestamptz NOT NULL DEFAULT 'epoch',
    -- The day (UTC) that the following columns are about.
    day date NOT NULL DEFAULT 'epoch',
    -- Number of recipients leased on that day.
    recipients bigint NOT NULL DEFAULT 0,
    -- The percentage of the quota that an event has reported on that day.
    reported smallint NOT NULL DEFAULT 0 CHECK (reported IN (0, 80, 100))
) WITH (fillfactor = 50);

-- Deletions of tenants. A worker locks the row while it deletes some rows of the tenant, and records the progress in the same
-- transaction, so that one worker at a time deletes, and another one continues after a crash. The row is kept, for its counts.
CREATE TABLE tenant_deletions (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- The position of the step in progress (db::tenants::deletion::STEPS), from 0.
    step smallint NOT NULL DEFAULT 0,
    -- For steps that read a table in the order of its ids: the last id that was read; null: none yet.
    position uuid,
    -- Messages deleted so far, and rows of all tables deleted so far.
    messages bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    -- No worker continues before this time: requests that began before the deletion may still be in progress, or recipients were
    -- leased when a worker last tried to delete them.
    open_at timestamptz NOT NULL
);
