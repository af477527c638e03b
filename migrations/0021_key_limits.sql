-- Modes and limits of API keys, and the use of the limits.

-- The lock on keys stops every request while this migration waits for it. Fails rather than waiting for long behind another
-- transaction: nothing is changed then, and the migration can be run again.
SET LOCAL lock_timeout = '5s';

-- Older versions insert keys and messages without these columns: the keys are live and have no limits.
ALTER TABLE keys
    -- live: messages are sent. test: nothing is sent. Also part of the key itself.
    ADD COLUMN mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live', 'test')),
    -- The networks that the key may be used from, as CIDR without host bits; IPv4-mapped IPv6 networks are written as IPv4. Null:
    -- no restriction.
    ADD COLUMN allowed_ips text[] CHECK (cardinality(allowed_ips) > 0),
    -- Maximum requests per second over a long time, and at once after a pause; both null: no limit.
    ADD COLUMN requests_per_second integer CHECK (requests_per_second > 0),
    ADD COLUMN burst integer CHECK (burst >= requests_per_second),
    -- Maximum recipients per day (UTC); null: no limit.
    ADD COLUMN recipients_per_day integer CHECK (recipients_per_day > 0),
    ADD CONSTRAINT keys_rate_whole CHECK ((requests_per_second IS NULL) = (burst IS NULL));

-- How often keys were changed. Replicas poll it to notice changes of the keys that they have cached. Its row is updated in the
-- transaction that changes a key, so a new version becomes visible together with the change.
CREATE TABLE key_changes (
    -- There is exactly one row.
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    version bigint NOT NULL
);
INSERT INTO key_changes (version) VALUES (0);

-- Triggers, so that changes by older versions and by hand are noticed too. There is none for new keys: unknown keys are not
-- cached.
CREATE FUNCTION note_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE key_changes SET version = version + 1;
    RETURN NULL;
END
$$;
-- Only for rows whose values change, because each change clears the caches of all replicas. Not for last_used_at, which changes
-- all the time and is not checked.
CREATE TRIGGER keys_changed AFTER UPDATE ON keys FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.hash, OLD.name, OLD.scopes, OLD.sender_domains, OLD.expires_at, OLD.revoked_at, OLD.mode,
           OLD.allowed_ips, OLD.requests_per_second, OLD.burst, OLD.recipients_per_day)
          IS DISTINCT FROM
          (NEW.tenant_id, NEW.hash, NEW.name, NEW.scopes, NEW.sender_domains, NEW.expires_at, NEW.revoked_at, NEW.mode,
           NEW.allowed_ips, NEW.requests_per_second, NEW.burst, NEW.recipients_per_day))
    EXECUTE FUNCTION note_key_change();
CREATE TRIGGER keys_deleted AFTER DELETE ON keys FOR EACH ROW EXECUTE FUNCTION note_key_change();

-- How much of their limits the keys have used; only of keys with limits. Processes lease allowances from it and use them in
-- memory, so it includes what they have leased and not used yet. Updated often: the low fill factor leaves space for versions of
-- the row.
CREATE TABLE key_usage (
    -- keys.id.
    key_id uuid PRIMARY KEY REFERENCES keys ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    -- The time up to which the rate is used up or has lapsed (domain::gcra::Gcra).
    rate_used_until timestamptz NOT NULL DEFAULT 'epoch',
    -- The day (UTC) that the following columns are about.
    day date NOT NULL DEFAULT 'epoch',
    -- Number of recipients leased on that day.
    recipients bigint NOT NULL DEFAULT 0,
    -- The percentage of the quota that an event has reported on that day.
    reported smallint NOT NULL DEFAULT 0 CHECK (reported IN (0, 80, 100))
) WITH (fillfactor = 50);
