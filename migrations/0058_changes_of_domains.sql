-- Changes of domains are noted as those of streams are (0054_changes_of_streams.sql).

-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql.
SET LOCAL lock_timeout = '5s';

CREATE CONSTRAINT TRIGGER note_new_or_deleted_domain AFTER INSERT OR DELETE ON domains DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION note_tenant_change('domains');
-- Not for each check of the DNS records, but only if the status changes, which follows from checked_at and verified_at
-- (domain::sender_domain::dns_records::DomainStatus), or the DMARC policy.
CREATE CONSTRAINT TRIGGER note_domain_change
    AFTER UPDATE OF tenant_id, name, checked_at, verified_at, dmarc, dmarc_strict_dkim, dmarc_strict_spf ON domains
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.name, OLD.verified_at IS NULL, OLD.checked_at > OLD.verified_at,
           OLD.checked_at - OLD.verified_at >= interval '72 hours', OLD.dmarc, OLD.dmarc_strict_dkim, OLD.dmarc_strict_spf)
          IS DISTINCT FROM
          (NEW.tenant_id, NEW.name, NEW.verified_at IS NULL, NEW.checked_at > NEW.verified_at,
           NEW.checked_at - NEW.verified_at >= interval '72 hours', NEW.dmarc, NEW.dmarc_strict_dkim, NEW.dmarc_strict_spf))
    EXECUTE FUNCTION note_tenant_change('domains');
