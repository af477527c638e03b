-- The scope `operator` of API keys: creating, changing, suspending and deleting tenants, and managing the keys of all tenants. It
-- includes no other scope, and no other scope includes it.

-- The lock on keys stops every request while this migration waits for it. Fails rather than waiting for long behind another
-- transaction: nothing is changed then, and the migration can be run again.
SET LOCAL lock_timeout = '5s';

-- Older versions ignore scopes that they do not know.
ALTER TABLE keys
    DROP CONSTRAINT keys_scopes_check,
    ADD CONSTRAINT keys_scopes_check
        CHECK (scopes <@ ARRAY['send', 'read', 'admin', 'operator'] AND cardinality(scopes) > 0);
