-- Changes of templates are noted as those of streams are (0054_changes_of_streams.sql).

-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

-- Not for new templates and drafts: only published templates are cached.
CREATE CONSTRAINT TRIGGER note_template_change AFTER UPDATE OF tenant_id, id, alias, version ON templates
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.id, OLD.alias, OLD.version) IS DISTINCT FROM (NEW.tenant_id, NEW.id, NEW.alias, NEW.version))
    EXECUTE FUNCTION note_tenant_change('templates');
CREATE CONSTRAINT TRIGGER note_deleted_template AFTER DELETE ON templates DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION note_tenant_change('templates');
