-- Changes of the keys that sign are noted as changes of domains (0058_changes_of_domains.sql). Only active keys sign.

-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

CREATE CONSTRAINT TRIGGER note_new_dkim_key AFTER INSERT ON dkim_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state = 'active')
    EXECUTE FUNCTION note_tenant_change('domains');
CREATE CONSTRAINT TRIGGER note_dkim_key_change AFTER UPDATE OF tenant_id, domain, selector, algorithm, state, sealed ON dkim_keys
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ('active' IN (OLD.state, NEW.state)
          AND (OLD.tenant_id, OLD.domain, OLD.selector, OLD.algorithm, OLD.state, OLD.sealed)
              IS DISTINCT FROM (NEW.tenant_id, NEW.domain, NEW.selector, NEW.algorithm, NEW.state, NEW.sealed))
    EXECUTE FUNCTION note_tenant_change('domains');
CREATE CONSTRAINT TRIGGER note_deleted_dkim_key AFTER DELETE ON dkim_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.state = 'active')
    EXECUTE FUNCTION note_tenant_change('domains');
