-- Test tenants: the data of test keys (keys.mode = 'test') belongs to a tenant of its own, so that test and live data never meet.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

ALTER TABLE tenants
    -- The tenant whose test data this tenant has; null: it has live data. A test tenant has messages, events, lanes, suppressions
    -- and everything else that messages need. It has no keys, domains and templates: those of the live tenant apply.
    ADD COLUMN test_of uuid UNIQUE REFERENCES tenants,
    -- The id of a test tenant is that of its live tenant with the highest bit of the version set (domain::id::TenantId). No other
    -- tenant has an id with this bit.
    ADD CONSTRAINT tenants_test_id CHECK (
        uuid_send(id) = set_bit(uuid_send(coalesce(test_of, id)), 55, CASE WHEN test_of IS NULL THEN 0 ELSE 1 END));

-- Creates the test tenant `test` of the tenant `live`, with its streams, unless it exists. The first test key of a tenant needs it.
CREATE FUNCTION create_test_tenant(live uuid, test uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM tenants WHERE id = test) THEN
        RETURN;
    END IF;
    -- New streams and changes of the live tenant wait for this transaction, and are then copied (copy_to_test_tenant,
    -- copy_tenant_to_test_tenant).
    PERFORM FROM tenants WHERE id = live FOR NO KEY UPDATE;
    -- No other tenant has such a name: an operator cannot choose one that begins with ten_. A tenant that is being deleted gets no
    -- test tenant, which might otherwise appear after its data was deleted.
    INSERT INTO tenants (id, name, created_at, test_of, weight, suspended_at, suspend_reason)
    SELECT test, 'ten_' || replace(test::text, '-', ''), now(), id, weight, suspended_at, suspend_reason
    FROM tenants WHERE id = live AND deleting_at IS NULL
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO event_counters (tenant_id) VALUES (test);
    INSERT INTO streams (tenant_id, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window, greylist,
                         unsubscribe)
    SELECT test, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window, greylist, unsubscribe
    FROM streams WHERE tenant_id = live;
END
$$;

-- Copies the weight of a tenant, its suspension and the request to delete it to its test tenant, if there is one. So a statement
-- that checks the tenant of a lane or a bulk needs no other rule for test data. A test tenant has no limits of its own.
CREATE FUNCTION copy_tenant_to_test_tenant() RETURNS trigger
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE tenants SET weight = NEW.weight, suspended_at = NEW.suspended_at, suspend_reason = NEW.suspend_reason,
                       deleting_at = NEW.deleting_at
    WHERE test_of = NEW.id;
    RETURN NULL;
END
$$;
-- Triggers run in the order of their names: the row of the test tenant is locked before key_changes (0025).
CREATE TRIGGER copy_to_test_tenant AFTER UPDATE ON tenants FOR EACH ROW
    WHEN ((OLD.weight, OLD.suspended_at, OLD.suspend_reason, OLD.deleting_at)
          IS DISTINCT FROM
          (NEW.weight, NEW.suspended_at, NEW.suspend_reason, NEW.deleting_at))
    EXECUTE FUNCTION copy_tenant_to_test_tenant();

-- Returns a time that is earlier by this interval, for POST /v1/test/clock. Infinite times do not change, and no time becomes
-- earlier than 1970.
CREATE FUNCTION moved_back(moment timestamptz, by interval) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN moment > 'epoch' THEN greatest(moment - by, 'epoch') ELSE moment END;
