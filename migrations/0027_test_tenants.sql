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
    -- A new stream of the live tenant waits for this transaction, and is then copied (copy_to_test_tenant).
    PERFORM FROM tenants WHERE id = live FOR NO KEY UPDATE;
    INSERT INTO tenants (id, name, created_at, test_of) VALUES (test, 'test data of ' || live, now(), live)
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

-- Returns a time that is earlier by this interval, for POST /v1/test/clock. Infinite times do not change, and no time becomes
-- earlier than 1970.
CREATE FUNCTION moved_back(moment timestamptz, by interval) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN moment > 'epoch' THEN greatest(moment - by, 'epoch') ELSE moment END;
