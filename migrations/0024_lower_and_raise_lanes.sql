-- Lowers lanes.ready_at where rows that are due earlier were added or freed, and holds a share lock on each of these lanes
-- until the transaction ends, so that nobody raises it meanwhile. The ids in ascending order, so that two commits never wait
-- for each other; due[n] is when the first new row of ids[n] is due.
--
-- As take_event_numbers does, it finds the newest version of each lane at the end of the index: a lane in use has several
-- versions a second, and with a transaction held open elsewhere a plain look-up by id reads all of them. One call also takes
-- the place of two statements that were planned each time.
CREATE FUNCTION lower_lanes(ids bigint[], due timestamptz[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    -- The table looks small, and the plan is always the same.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
BEGIN
    FOR n IN 1 .. cardinality(ids) LOOP
        -- As a range: for an equality the planner would drop the order.
        SELECT l.ready_at INTO ready FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
        ORDER BY l.id DESC LIMIT 1 FOR KEY SHARE;
        IF ready > due[n] THEN
            -- Locked first and read again after: whoever held the row may have made a newer one.
            PERFORM FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n]
            ORDER BY l.id DESC LIMIT 1 FOR NO KEY UPDATE;
            UPDATE lanes SET ready_at = due[n]
            WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
              AND ready_at > due[n];
        END IF;
    END LOOP;
END
$$;

-- Raises lanes.ready_at of these lanes to when their first free row is due, and to no more than most[n]; that is infinity for
-- a lane that is to rest where it has none. Lanes that are being added to are left alone, and so are those for which nothing
-- would change. Answers the lanes that it looked at.
CREATE FUNCTION raise_lanes(ids bigint[], most timestamptz[]) RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ready timestamptz;
    earliest timestamptz;
BEGIN
    -- Whoever adds mail waits for our locks, and so for our commit: it need not wait for the disk. Should the server lose it,
    -- the bound is lower than it could be, and is raised once more.
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR n IN 1 .. cardinality(ids) LOOP
        -- The newest version by its address: what others hold is skipped, and none of its older versions is read for it.
        PERFORM FROM lanes
        WHERE ctid = (SELECT l.ctid FROM lanes l WHERE l.id >= ids[n] AND l.id <= ids[n] ORDER BY l.id DESC LIMIT 1)
        FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        -- A statement of its own: it sees what was committed before the lock was had.
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
