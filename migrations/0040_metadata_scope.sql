-- The scope `metadata` of API keys: reading everything that the scope `read` allows, except the content of messages. `read` and
-- `admin` include it, so existing keys do not change.

-- The lock on keys stops every request while this migration waits for it. Fails rather than waiting for long behind another
-- transaction: nothing is changed then, and the migration can be run again.
SET LOCAL lock_timeout = '5s';

-- Older versions ignore scopes that they do not know: there, a key with only this scope can do nothing.
ALTER TABLE keys
    DROP CONSTRAINT keys_scopes_check,
    ADD CONSTRAINT keys_scopes_check
        CHECK (scopes <@ ARRAY['send', 'read', 'metadata', 'admin', 'operator'] AND cardinality(scopes) > 0);
