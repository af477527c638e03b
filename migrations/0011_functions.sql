-- Functions that the service's SQL statements call.

-- Returns a lower bound of the UUIDv7 values with this time: the time in milliseconds, followed by zeros.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- Creates the partition of `parent` for the week of `moment` if it is missing, and returns whether it did. contents, messages,
-- recipients and webhook_attempts are partitioned by the time in their UUIDv7 keys, events by recorded_at. A row that no weekly
-- partition covers, for example because a clock is far off, goes to the default partition, so no row is ever refused. If the
-- default partition already contains rows of the week, they stay there and no partition is created. The function creates a
-- table and then attaches it, because CREATE TABLE … PARTITION OF would lock the parent against reads.
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
    -- If two processes call this function at the same time, the second waits here and then finds the partition.
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
    -- The default partition already contains rows of the week, or another process has created the partition: a relation that
    -- was looked up before waiting for an advisory lock stays cached, so the second check above may miss it.
    WHEN check_violation OR duplicate_table OR duplicate_object OR unique_violation THEN
        RETURN false;
END $$;

-- Returns a recipient's status as the API shows it: the statuses scheduled and sending are derived from the queue row. Callers
-- pass queue.first_due_at as `due_at`: a recipient whose due_at is later for another reason than scheduled_at is not scheduled.
CREATE FUNCTION recipient_status(stored text, lease uuid, due_at timestamptz, at timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN lease IS NOT NULL THEN 'sending'
        WHEN stored = 'queued' AND due_at > at AND due_at < 'infinity' THEN 'scheduled'
        ELSE stored
    END;

-- Returns a message's status, for the filter of GET /v1/messages. domain::delivery::MessageStatus implements the same rule; a
-- test compares the two.
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

-- Reserves the next n event numbers of a tenant and returns the number before the first of them; null if the tenant has no row
-- in event_counters. Locks that row until the transaction ends.
--
-- A plain UPDATE reads every row version that some snapshot may still see: while another transaction stayed open, it took 1 ms
-- after 20,000 transactions with events, and longer with each further one. The newest version is the last one in the index, so
-- a scan from the end of the index finds it at once (0.07 ms for any number of versions). The function locks the row and then
-- reads it again, because the previous holder of the lock may have created a newer version.
CREATE FUNCTION take_event_numbers(tenant uuid, n bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    -- Without this, the planner would scan the table, because it has few rows. The best plan is always the same.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    base bigint;
BEGIN
    -- A range condition, because with an equality the planner drops ORDER BY.
    PERFORM FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
    ORDER BY c.tenant_id DESC LIMIT 1 FOR UPDATE;
    UPDATE event_counters SET last_seq = last_seq + n
    WHERE ctid = (SELECT c.ctid FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
                  ORDER BY c.tenant_id DESC LIMIT 1)
    RETURNING last_seq - n INTO base;
    RETURN base;
END
$$;

-- Lowers lanes.ready_at of the lanes `ids` to `due`, where it is higher. due[n] is the earliest due time of the rows that the
-- transaction added to or released in the lane ids[n]. Holds a share lock on each lane until the transaction ends, so that
-- raise_lanes does not raise ready_at before the rows are visible. ids must be in ascending order, so that two transactions
-- cannot deadlock.
--
-- As take_event_numbers does, it finds the newest row version of each lane at the end of the index: a busy lane gets several
-- versions per second, and while another transaction stays open, a plain lookup by id reads all of them.
CREATE FUNCTION lower_lanes(ids bigint[], due timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    -- Without this, the planner would scan the table, because it has few rows. The best plan is always the same.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
BEGIN
    FOR n IN 1 .. cardinality(ids) LOOP
        -- A range condition, because with an equality the planner drops ORDER BY.
        SELECT l.ready_at INTO ready FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
        ORDER BY l.id DESC LIMIT 1 FOR KEY SHARE;
        IF ready > due[n] THEN
            -- Locks the row and then reads it again: the previous holder of the lock may have created a newer version.
            PERFORM FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
            ORDER BY l.id DESC LIMIT 1 FOR NO KEY UPDATE;
            UPDATE lanes SET ready_at = due[n]
            WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
              AND ready_at > due[n];
        END IF;
    END LOOP;
END
$$;

-- Raises lanes.ready_at of the lanes `ids` to the due time of their first row that is not leased, but at most to most[n]. With
-- most[n] = infinity, a lane without such rows gets infinity, and claims skip it. Skips lanes that another transaction has
-- locked, because it adds or releases rows. Returns the lanes that it did not skip.
CREATE FUNCTION raise_lanes(ids bigint[], most timestamptz[]) RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
    earliest timestamptz;
BEGIN
    -- Transactions that add rows wait for these locks, and so for this commit, which therefore does not wait for the disk. If a
    -- server crash loses the commit, ready_at is lower than necessary and is raised again.
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR n IN 1 .. cardinality(ids) LOOP
        -- Locks the newest version by its ctid, so that no older version is read, and skips it if it is locked.
        PERFORM FROM lanes
        WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
        FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        -- A separate statement, so that it sees everything that was committed before the lock was granted.
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
