-- Sender domains, with their keys, and inbound routes are cached until they change, as streams and templates are
-- (0054_changes_of_streams.sql).

-- One table in use per migration, with a lock timeout: see 0022_key_of_messages.sql. Here it is tenant_changes.
SET LOCAL lock_timeout = '5s';

ALTER TABLE tenant_changes
    DROP CONSTRAINT tenant_changes_kind_check,
    -- streams and templates: see 0054. domains: a domain was registered or removed, has another status or another DMARC policy, or
    -- other keys sign. inbound_routes: an inbound route was created, changed or deleted.
    ADD CONSTRAINT tenant_changes_kind_check CHECK (kind IN ('streams', 'templates', 'domains', 'inbound_routes'));
