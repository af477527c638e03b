-- Two processes may make the same partition at once. The second waits for the first, and may still not see what that made: what
-- it has looked up before stays cached while it waits for an advisory lock. Then its CREATE TABLE fails, and the work is done.
CREATE OR REPLACE FUNCTION ensure_partition(parent text, moment timestamptz) RETURNS boolean
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
EXCEPTION
    -- The default partition holds rows of that week already, or another process has made the partition meanwhile (which the
    -- unique indexes of the catalogs tell where two CREATE TABLE meet).
    WHEN check_violation OR duplicate_table OR duplicate_object OR unique_violation THEN
        RETURN false;
END $$;
