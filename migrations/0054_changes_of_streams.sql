-- Which settings of which tenants were changed: processes that have cached settings poll it for all tenants at once
-- (db::tenants::changes), and read only changed ones again.
--
-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql. Here it is streams.
SET LOCAL lock_timeout = '5s';

-- How many changes there were. A transaction that changes settings locks the row while it commits, so the numbers become visible
-- in their order, and a process that knows one misses no change with an earlier one.
CREATE TABLE tenant_change_counter (
    -- There is exactly one row.
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    -- The number of the last change.
    version bigint NOT NULL
);
INSERT INTO tenant_change_counter (version) VALUES (0);

-- The last change of each kind of settings of each tenant.
CREATE TABLE tenant_changes (
    -- tenants.id. No foreign key: a check of it would lock the tenant.
    tenant_id uuid NOT NULL,
    -- streams: a stream was created or deleted, or its priority or its unsubscribe links were changed. templates: a template was
    -- deleted, or has another latest version or another alias.
    kind text NOT NULL CHECK (kind IN ('streams', 'templates')),
    -- The number of the change (tenant_change_counter).
    version bigint NOT NULL,
    -- Serves the trigger.
    PRIMARY KEY (tenant_id, kind)
);
-- Serves the processes that poll for changes after the last one that they know.
CREATE INDEX tenant_changes_version ON tenant_changes (version);

-- Notes a change of a row of a tenant. The argument is its kind.
CREATE FUNCTION note_tenant_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed uuid := CASE TG_OP WHEN 'DELETE' THEN OLD.tenant_id ELSE NEW.tenant_id END;
    number bigint;
BEGIN
    -- Nothing of a tenant that is being deleted is used any more, and nothing is left of it afterwards.
    IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM tenants WHERE id = changed AND deleting_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    -- One number per transaction, noted once per tenant and kind: if each changed row updated the same rows again, each update would
    -- read all versions that the earlier ones have left.
    SELECT version INTO number FROM tenant_change_counter WHERE xmin = pg_current_xact_id()::xid;
    IF NOT FOUND THEN
        UPDATE tenant_change_counter SET version = version + 1 RETURNING version INTO number;
    ELSIF EXISTS (SELECT FROM tenant_changes WHERE tenant_id = changed AND kind = TG_ARGV[0] AND version = number) THEN
        RETURN NULL;
    END IF;
    INSERT INTO tenant_changes AS c (tenant_id, kind, version) VALUES (changed, TG_ARGV[0], number)
    ON CONFLICT (tenant_id, kind) DO UPDATE SET version = excluded.version;
    RETURN NULL;
END
$$;

-- Triggers, so that changes by older versions and by hand are noticed too. They run when the transaction commits: the lock of the
-- counter is its last one, and is not held for long. They do not run for columns that workers change or that are not cached.
CREATE CONSTRAINT TRIGGER note_new_or_deleted_stream AFTER INSERT OR DELETE ON streams DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION note_tenant_change('streams');
CREATE CONSTRAINT TRIGGER note_stream_change AFTER UPDATE OF tenant_id, name, priority, unsubscribe ON streams
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.name, OLD.priority, OLD.unsubscribe)
          IS DISTINCT FROM (NEW.tenant_id, NEW.name, NEW.priority, NEW.unsubscribe))
    EXECUTE FUNCTION note_tenant_change('streams');
