-- Streams of test tenants (tenants.test_of): they have the settings of the live tenant's streams, and their own state: pauses, and
-- how much of their limits is used.

-- One table per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- Copies the settings of a stream to the test tenant, if there is one.
CREATE FUNCTION copy_to_test_tenant() RETURNS trigger
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- Waits while the test tenant is being created. A separate statement, so that the next one sees what was committed before.
    PERFORM FROM tenants WHERE id = NEW.tenant_id FOR SHARE;
    INSERT INTO streams AS test (tenant_id, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window,
                                 greylist, unsubscribe)
    SELECT id, NEW.name, NEW.priority, NEW.created_at, NEW.weight, NEW.concurrency, NEW.rate, NEW.retry_schedule,
           NEW.retry_window, NEW.greylist, NEW.unsubscribe
    FROM tenants WHERE test_of = NEW.tenant_id
    ON CONFLICT (tenant_id, name) DO UPDATE SET
        priority = excluded.priority, weight = excluded.weight, concurrency = excluded.concurrency, rate = excluded.rate,
        retry_schedule = excluded.retry_schedule, retry_window = excluded.retry_window, greylist = excluded.greylist,
        unsubscribe = excluded.unsubscribe,
        -- As for the stream itself, messages do not wait for a rate that no longer applies (db::streams::change).
        open_at = CASE WHEN test.rate IS DISTINCT FROM excluded.rate THEN '-infinity' ELSE test.open_at END,
        next_turn_at = CASE WHEN test.rate IS DISTINCT FROM excluded.rate THEN least(test.next_turn_at, now())
                       ELSE test.next_turn_at END;
    RETURN NULL;
END
$$;
-- A trigger, so that changes by older versions and by hand are copied too. It does not run for the columns that workers change.
CREATE TRIGGER streams_changed
    AFTER INSERT OR UPDATE OF priority, weight, concurrency, rate, retry_schedule, retry_window, greylist, unsubscribe ON streams
    FOR EACH ROW EXECUTE FUNCTION copy_to_test_tenant();
