-- The identity of this installation and a mark that rises with time, so that a service notices when its database was restored,
-- rolled back or copied (the restore guard): such a database must not send again what was sent already.

-- One row. It changes every second, so it is small and updated in place.
CREATE TABLE installation (
    -- Always true, so that there is one row.
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- The identity. A restored or copied database has the same one. Null until the first mark, so that copies of a database that
    -- was never used are different installations.
    id uuid,
    -- `restore_guard.installation` of the first process that had one, or of the last `postrider release`; null: not set.
    name text,
    -- When the first mark was made, or the guard was last released. Marks of different epochs are not comparable.
    epoch timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Where the data was at the last mark: pg_control_system().system_identifier and the timeline of the server, null if the
    -- server does not tell them; and pg_database.oid and the oid of this table, which change when a dump is restored.
    system_identifier bigint,
    timeline integer,
    database_oid bigint,
    table_oid bigint,
    -- Number of the last mark. Processes remember the highest one that they have seen; a database with a lower one is older.
    mark bigint NOT NULL DEFAULT 0,
    -- When the last mark was made, by the server's clock; null: none yet, so that the first process adopts this database.
    marked_at timestamptz,
    -- Position in the WAL at the last mark, in bytes; null if the server does not tell it.
    lsn bigint,
    -- events.seq of the default tenant's newest event at the last mark.
    event_seq bigint NOT NULL DEFAULT 0,
    -- Since when nothing is sent until `postrider release`; null: the guard does not hold.
    held_at timestamptz,
    -- Why (postrider::domain::restore::HoldReason), and what was found.
    held_reason text CHECK (held_reason IN ('moved', 'rolled_back', 'lost_tail', 'stale')),
    held_detail text,
    CHECK ((id IS NULL) = (marked_at IS NULL)),
    CHECK (num_nulls(held_at, held_reason, held_detail) IN (0, 3))
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

INSERT INTO installation DEFAULT VALUES;

-- Returns which server this is and where its WAL ends; null where the server does not allow or does not know it.
CREATE FUNCTION server_position(
    OUT system_identifier bigint,
    -- The timeline that is written; null on a standby.
    OUT timeline integer,
    -- The end of the WAL, in bytes; null on a standby.
    OUT lsn bigint,
    -- The end of the WAL that was replayed when the server last recovered or was promoted; null if it did neither since its start.
    OUT replayed_lsn bigint,
    OUT is_standby boolean
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    is_standby := pg_is_in_recovery();
    BEGIN
        SELECT c.system_identifier INTO system_identifier FROM pg_control_system() c;
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
        NULL;
    END;
    IF NOT is_standby THEN
        BEGIN
            timeline := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;
            lsn := pg_current_wal_insert_lsn() - '0/0'::pg_lsn;
            replayed_lsn := pg_last_wal_replay_lsn() - '0/0'::pg_lsn;
        EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported OR object_not_in_prerequisite_state THEN
            NULL;
        END;
    END IF;
END
$$;
