-- Tables that grow are partitioned by week, so that retention can drop what is old instead of deleting it.
-- contents, messages and recipients are split by the time in their UUIDv7 keys, events by the time recorded.

-- The smallest UUIDv7 of a moment.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- Makes the partition of the week of `moment` where it is missing; answers whether it did. A table's default partition
-- takes what fits nowhere (a clock that is far off), so that nothing is ever refused for want of a partition; a week of
-- which it holds rows already stays there. Made apart and then attached, which locks out no reader of the other weeks.
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
    -- Two replicas at once: the second finds the work done.
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
EXCEPTION WHEN check_violation THEN
    RETURN false;
END $$;
