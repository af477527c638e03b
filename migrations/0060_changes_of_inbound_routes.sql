-- Changes of inbound routes are noted as those of streams are (0054_changes_of_streams.sql).

-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

CREATE CONSTRAINT TRIGGER note_new_or_deleted_inbound_route AFTER INSERT OR DELETE ON inbound_routes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION note_tenant_change('inbound_routes');
CREATE CONSTRAINT TRIGGER note_inbound_route_change
    AFTER UPDATE OF tenant_id, id, domain, kind, local, action, relay_url ON inbound_routes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.id, OLD.domain, OLD.kind, OLD.local, OLD.action, OLD.relay_url)
          IS DISTINCT FROM (NEW.tenant_id, NEW.id, NEW.domain, NEW.kind, NEW.local, NEW.action, NEW.relay_url))
    EXECUTE FUNCTION note_tenant_change('inbound_routes');
