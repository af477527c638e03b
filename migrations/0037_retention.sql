-- Retention: what was deleted because of its age ([retention]), and how long streams keep the content of their messages.
--
-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql. Here it is streams.
SET LOCAL lock_timeout = '5s';

-- How many seconds the stream's messages keep their content; 0: as long as the messages themselves. Null: as configured.
ALTER TABLE streams ADD COLUMN content_retention integer CHECK (content_retention >= 0);

-- As in 0028_streams_of_test_tenants.sql, with content_retention.
CREATE OR REPLACE FUNCTION copy_to_test_tenant() RETURNS trigger
    LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- Waits while the test tenant is being created. A separate statement, so that the next one sees what was committed before.
    PERFORM FROM tenants WHERE id = NEW.tenant_id FOR SHARE;
    INSERT INTO streams AS test (tenant_id, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window,
                                 greylist, unsubscribe, content_retention)
    SELECT id, NEW.name, NEW.priority, NEW.created_at, NEW.weight, NEW.concurrency, NEW.rate, NEW.retry_schedule,
           NEW.retry_window, NEW.greylist, NEW.unsubscribe, NEW.content_retention
    FROM tenants WHERE test_of = NEW.tenant_id
    ON CONFLICT (tenant_id, name) DO UPDATE SET
        priority = excluded.priority, weight = excluded.weight, concurrency = excluded.concurrency, rate = excluded.rate,
        retry_schedule = excluded.retry_schedule, retry_window = excluded.retry_window, greylist = excluded.greylist,
        unsubscribe = excluded.unsubscribe, content_retention = excluded.content_retention,
        -- As for the stream itself, messages do not wait for a rate that no longer applies (db::streams::change).
        open_at = CASE WHEN test.rate IS DISTINCT FROM excluded.rate THEN '-infinity' ELSE test.open_at END,
        next_turn_at = CASE WHEN test.rate IS DISTINCT FROM excluded.rate THEN least(test.next_turn_at, now())
                       ELSE test.next_turn_at END;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER streams_changed
    AFTER INSERT OR UPDATE OF priority, weight, concurrency, rate, retry_schedule, retry_window, greylist, unsubscribe,
                              content_retention ON streams
    FOR EACH ROW EXECUTE FUNCTION copy_to_test_tenant();

-- As in 0027_test_tenants.sql, with content_retention, and min_priority (0036).
CREATE OR REPLACE FUNCTION create_test_tenant(live uuid, test uuid) RETURNS void
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
    INSERT INTO tenants (id, name, created_at, test_of, weight, suspended_at, suspend_reason, min_priority)
    SELECT test, 'ten_' || replace(test::text, '-', ''), now(), id, weight, suspended_at, suspend_reason, min_priority
    FROM tenants WHERE id = live AND deleting_at IS NULL
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO event_counters (tenant_id) VALUES (test);
    INSERT INTO streams (tenant_id, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window, greylist,
                         unsubscribe, content_retention)
    SELECT test, name, priority, created_at, weight, concurrency, rate, retry_schedule, retry_window, greylist, unsubscribe,
           content_retention
    FROM streams WHERE tenant_id = live;
END
$$;

-- The weeks that retention has deleted, or has examined and kept. A week begins on Monday at 0:00 UTC, as the partitions do.
CREATE TABLE retention_weeks (
    -- content: contents and blob_references. messages: messages, recipients and custom_message_ids. events: events. webhook_log:
    -- webhook_attempts.
    class text NOT NULL CHECK (class IN ('content', 'messages', 'events', 'webhook_log')),
    -- The start of the week.
    week timestamptz NOT NULL,
    -- When the week was last examined.
    examined_at timestamptz NOT NULL,
    -- Why the week was kept then, a sentence each; empty: its time has not come, or it was deleted.
    protected text[] NOT NULL DEFAULT '{}',
    -- When its partitions were dropped; null: it is kept.
    dropped_at timestamptz,
    -- Of messages: when it was first found that no recipient of the week's messages was still to be sent to; null: not yet. No bounce
    -- comes later than the lifetime of a return path after it.
    ended_at timestamptz,
    -- Of content that is deleted row by row: which streams' periods had passed, as a hash, when all of the week was last read and nothing in
    -- it was protected. It is not read again before another one's passes; null: it is.
    read_for text,
    -- Serves messages.get and messages.page, which show when a message's content was deleted, and retention itself.
    PRIMARY KEY (class, week)
);

-- The events that retention has deleted: all events of a tenant up to this number. A reader of the feed whose cursor is lower has
-- missed events.
CREATE TABLE deleted_events (
    tenant_id uuid PRIMARY KEY,
    up_to bigint NOT NULL
);

-- One row: which worker deletes old data.
CREATE TABLE retention_runs (
    -- Always true, so that there is one row.
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- The worker or command that deletes, and until when others must not; in the past: none does.
    holder uuid,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    -- When a run last began and last ended; null: none has.
    started_at timestamptz,
    ended_at timestamptz
);
INSERT INTO retention_runs DEFAULT VALUES;

-- Returns the time in a UUIDv7, in milliseconds.
CREATE FUNCTION uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);

-- Drops the partitions of these tables for the week that begins at `week`, in one statement, and returns how many there were. Dropping
-- a partition locks its parent, so the caller limits the time: transactions that use the parent wait meanwhile.
CREATE FUNCTION drop_partitions(parents text[], week timestamptz) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
    names text;
BEGIN
    SELECT count(*), string_agg(format('%I', child), ', ' ORDER BY position) INTO found, names
    FROM (SELECT format('%s_%s', parent, to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD')) AS child, position
          FROM unnest(parents) WITH ORDINALITY AS p (parent, position)) children
    WHERE to_regclass(child) IS NOT NULL;
    IF found > 0 THEN
        EXECUTE 'DROP TABLE ' || names;
    END IF;
    RETURN found;
END $$;

-- Returns whether the content of a bulk may still be sent: recipients are to become messages, or its messages are queued, or uncertain
-- with on_uncertain = hold.
CREATE FUNCTION is_bulk_unfinished(tenant uuid, bulk uuid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN EXISTS (SELECT FROM bulks WHERE tenant_id = tenant AND id = bulk AND settled_at IS NULL)
        OR EXISTS (SELECT FROM bulk_recipients WHERE bulk_id = bulk)
        OR EXISTS (SELECT FROM bulk_messages b JOIN queue q ON q.message_id = b.message_id WHERE b.bulk_id = bulk)
        OR EXISTS (SELECT FROM bulk_messages b
                   JOIN recipients r ON r.message_id = b.message_id AND r.tenant_id = b.tenant_id AND r.status = 'uncertain'
                   JOIN messages m ON m.id = b.message_id AND m.tenant_id = b.tenant_id AND m.on_uncertain = 'hold'
                   WHERE b.bulk_id = bulk);

-- Returns when the week of a content was dropped; null: it was not. Looking it up takes some time, so queries ask only about contents
-- that are older than the last week that was dropped.
CREATE FUNCTION content_deletion(content uuid) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT w.dropped_at FROM retention_weeks w
            WHERE w.class = 'content' AND w.week = date_trunc('week', uuid_time(content), 'UTC'));

-- Returns how many readers have not read the events that were recorded from `since` until `before`: enabled webhook endpoints, also
-- those that retry one of them; and statistics of tenants.
CREATE FUNCTION unread_events(since timestamptz, before timestamptz, OUT webhooks bigint, OUT statistics bigint)
    LANGUAGE sql STABLE AS $$
    WITH last AS MATERIALIZED (
        SELECT t.id AS tenant_id, last.seq FROM tenants t
        CROSS JOIN LATERAL (SELECT seq FROM events WHERE tenant_id = t.id AND recorded_at >= since AND recorded_at < before
                            ORDER BY seq DESC LIMIT 1) last
        WHERE t.deleting_at IS NULL)
    SELECT (SELECT count(*) FROM last l JOIN webhook_endpoints e ON e.tenant_id = l.tenant_id
            WHERE e.disabled_at IS NULL
              AND (e.cursor < l.seq OR EXISTS (SELECT FROM webhook_retries r WHERE r.endpoint_id = e.id AND r.seq <= l.seq))),
           (SELECT count(*) FROM last l LEFT JOIN statistics_cursors s ON s.tenant_id = l.tenant_id
            WHERE coalesce(s.seq, 0) < l.seq OR s.clear_from IS NOT NULL)
$$;

-- Records that the week of a class that begins at `dropped_week` is dropped by the same transaction; and of events, which were deleted.
-- Fails as if a lock were not available if a reader needs events of the week: for example, a replay has just begun.
CREATE FUNCTION record_dropped_week(of_class text, dropped_week timestamptz, at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    week_end timestamptz := dropped_week + interval '7 days';
BEGIN
    IF of_class = 'events' THEN
        IF EXISTS (SELECT FROM unread_events(dropped_week, week_end) u WHERE u.webhooks > 0 OR u.statistics > 0) THEN
            RAISE EXCEPTION 'a reader needs events of the week' USING ERRCODE = 'lock_not_available';
        END IF;
        INSERT INTO deleted_events (tenant_id, up_to)
        SELECT t.id, last.seq FROM tenants t
        CROSS JOIN LATERAL (SELECT seq FROM events WHERE tenant_id = t.id AND recorded_at >= dropped_week AND recorded_at < week_end
                            ORDER BY seq DESC LIMIT 1) last
        ON CONFLICT (tenant_id) DO UPDATE SET up_to = greatest(deleted_events.up_to, excluded.up_to);
    END IF;
    INSERT INTO retention_weeks AS w (class, week, examined_at, dropped_at) VALUES (of_class, dropped_week, at, at)
    ON CONFLICT (class, week) DO UPDATE SET examined_at = excluded.examined_at, protected = excluded.protected,
        dropped_at = coalesce(w.dropped_at, excluded.dropped_at);
END $$;
