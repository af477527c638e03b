-- Functions that the service's statements call.

-- Returns the smallest UUIDv7 of a moment.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- Creates the partition of the week of `moment` if it is missing, and returns whether it did. contents, messages, recipients and
-- webhook_attempts are partitioned by the time in their UUIDv7 keys, events by recorded_at. Rows that no partition covers (as
-- from a clock that is far off) go to the default partition, so that no row is ever refused; if it already holds rows of the
-- week, they stay there and no partition is made. Created first and then attached, which locks out no reader of other weeks.
CREATE FUNCTION ensure_partition(parent text, moment timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    week timestamptz := date_trunc('week', moment, 'UTC');
    child text := format('%s_%s', parent, to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD'));
    bounds text;
BEGIN
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Two processes at once: the second finds the partition made.
    PERFORM pg_advisory_xact_lock(hashtext('postrider.ensure_partition'));
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF parent = 'events' THEN
        bounds := format('FROM (%L) TO (%L)', week, week + interval '7 days');
    ELSE
        bounds := format('FROM (%L) TO (%L)', uuid_floor(week), uuid_floor(week + interval '7 days'));
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES %s', parent, child, bounds);
    RETURN true;
EXCEPTION
    -- The default partition already holds rows of that week, or another process made the partition meanwhile: a relation looked
    -- up before waiting for an advisory lock stays cached, so that the second check above may miss it.
    WHEN check_violation OR duplicate_table OR duplicate_object OR unique_violation THEN
        RETURN false;
END $$;

-- Returns a recipient's status as shown by the API: scheduled and sending follow from its row in the queue. `due_at` is
-- queue.first_due_at, so that a row that was rescheduled for another reason than scheduled_at is queued. A held row (infinity)
-- is not scheduled.
CREATE FUNCTION recipient_status(stored text, lease uuid, due_at timestamptz, at timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN lease IS NOT NULL THEN 'sending'
        WHEN stored = 'queued' AND due_at > at AND due_at < 'infinity' THEN 'scheduled'
        ELSE stored
    END;

-- Returns a message's status, for the filter of the list. domain::delivery::MessageStatus is the same rule, and a test compares the
-- two.
CREATE FUNCTION message_status(tenant uuid, message uuid, at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT CASE
            WHEN 'sending' = ANY (s.all_of) THEN 'sending'
            WHEN 'queued' = ANY (s.all_of) THEN 'queued'
            WHEN 'deferred' = ANY (s.all_of) THEN 'deferred'
            WHEN 'scheduled' = ANY (s.all_of) THEN 'scheduled'
            WHEN cardinality(s.all_of) = 1 THEN s.all_of[1]
            ELSE 'partial'
        END
        FROM (
            SELECT array_agg(DISTINCT recipient_status(r.status, q.lease, q.first_due_at, at)) AS all_of
            FROM recipients r
            LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
            WHERE r.tenant_id = tenant AND r.message_id = message
        ) s
    );

-- Takes the next n event numbers of a tenant, and returns the number before the first; null if the tenant has no counter. Locks
-- the counter's row until the transaction ends.
--
-- A plain UPDATE reads every version of the row that some snapshot may still see: with a transaction held open elsewhere it took
-- 1 ms after 20,000 transactions with events, and more with each. The newest version is the last in the index, so that a scan
-- from the end finds it at once (0.07 ms, however many there are). The row is locked, then read again: the previous holder of
-- the lock may have made a newer version.
CREATE FUNCTION take_event_numbers(tenant uuid, n bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    -- The planner takes the table for small. The plan never changes.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    base bigint;
BEGIN
    -- As a range: for an equality the planner drops ORDER BY.
    PERFORM FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
    ORDER BY c.tenant_id DESC LIMIT 1 FOR UPDATE;
    UPDATE event_counters SET last_seq = last_seq + n
    WHERE ctid = (SELECT c.ctid FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
                  ORDER BY c.tenant_id DESC LIMIT 1)
    RETURNING last_seq - n INTO base;
    RETURN base;
END
$$;

-- Lowers lanes.ready_at of lanes to which rows with an earlier due time were added or released, and keeps a share lock on each lane
-- until the transaction ends, so that nobody raises it meanwhile. ids must be in ascending order, so that two commits cannot
-- deadlock; due[n] is the earliest due time of the new rows of ids[n].
--
-- As in take_event_numbers, the newest version of each lane is found at the end of the index: a busy lane gets several versions a
-- second, and with a transaction held open elsewhere a plain look-up by id reads all of them. One call also replaces two
-- statements that were planned each time.
CREATE FUNCTION lower_lanes(ids bigint[], due timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    -- The planner takes the table for small. The plan never changes.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
BEGIN
    FOR n IN 1 .. cardinality(ids) LOOP
        -- As a range: for an equality the planner drops ORDER BY.
        SELECT l.ready_at INTO ready FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
        ORDER BY l.id DESC LIMIT 1 FOR KEY SHARE;
        IF ready > due[n] THEN
            -- Locked, then read again: the previous holder of the lock may have made a newer version.
            PERFORM FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
            ORDER BY l.id DESC LIMIT 1 FOR NO KEY UPDATE;
            UPDATE lanes SET ready_at = due[n]
            WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
              AND ready_at > due[n];
        END IF;
    END LOOP;
END
$$;

-- Raises lanes.ready_at of lanes to the due time of their first row that is not leased, and to at most most[n]; infinity lets a lane
-- without rows rest. Skips lanes that rows are being added to, and those that would not change. Returns the lanes that it
-- examined.
CREATE FUNCTION raise_lanes(ids bigint[], most timestamptz[]) RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
    earliest timestamptz;
BEGIN
    -- Commits that add rows wait for these locks, and so for this commit: do not wait for the disk. If the server loses the
    -- commit, the bound is lower than necessary, and is raised again.
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR n IN 1 .. cardinality(ids) LOOP
        -- The newest version, by its address: no older version is read, and a locked one is skipped.
        PERFORM FROM lanes
        WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
        FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        -- A separate statement: it sees what was committed before the lock was granted.
        SELECT l.ready_at INTO ready FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
        ORDER BY l.id DESC LIMIT 1;
        SELECT q.due_at INTO earliest FROM queue q
        WHERE q.lane_id = ids[n] AND q.lease IS NULL AND q.due_at >= ready
        ORDER BY q.due_at LIMIT 1;
        UPDATE lanes SET ready_at = least(earliest, most[n])
        WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
          AND ready_at < least(earliest, most[n]);
        RETURN NEXT ids[n];
    END LOOP;
END
$$;
