-- What a worker goes by, so that others judge its silence by its own lease and see where replicas are configured differently.
ALTER TABLE workers
    ADD COLUMN lease_seconds double precision,
    ADD COLUMN version text,
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}';

COMMENT ON COLUMN workers.lease_seconds IS
    'How long it may be silent before others free what it has leased; null of a version that did not say so.';
COMMENT ON COLUMN workers.version IS 'The version of Postrider that it runs; null of a version that did not say so.';
COMMENT ON COLUMN workers.settings IS
    'Fingerprints of the settings that have to be the same in all replicas, by name. Nothing secret can be read from them.';
