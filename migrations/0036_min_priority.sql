-- The most urgent priority of a tenant's streams.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- Older versions ignore this column.
ALTER TABLE tenants
    -- The lowest priority, that is the most urgent one, that the tenant's streams have in the order of sending: a stream with a
    -- lower number in streams.priority counts as if it had this one (lanes.ready). Null: no limit.
    ADD COLUMN min_priority smallint CHECK (min_priority BETWEEN 0 AND 100);

-- A test tenant has the limit of its live tenant, as it has its weight (0027).
CREATE OR REPLACE FUNCTION copy_tenant_to_test_tenant() RETURNS trigger
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE tenants SET weight = NEW.weight, suspended_at = NEW.suspended_at, suspend_reason = NEW.suspend_reason,
                       deleting_at = NEW.deleting_at, min_priority = NEW.min_priority
    WHERE test_of = NEW.id;
    RETURN NULL;
END
$$;
DROP TRIGGER copy_to_test_tenant ON tenants;
CREATE TRIGGER copy_to_test_tenant AFTER UPDATE ON tenants FOR EACH ROW
    WHEN ((OLD.weight, OLD.suspended_at, OLD.suspend_reason, OLD.deleting_at, OLD.min_priority)
          IS DISTINCT FROM
          (NEW.weight, NEW.suspended_at, NEW.suspend_reason, NEW.deleting_at, NEW.min_priority))
    EXECUTE FUNCTION copy_tenant_to_test_tenant();
