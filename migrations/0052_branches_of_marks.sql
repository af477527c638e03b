-- A process that starts without a memory of the installation begins a branch of marks, so that a number that was made twice, before and
-- after a rollback, can be told apart. See `domain::restore`.
SET LOCAL lock_timeout = '3s';

ALTER TABLE installation
    -- The branch of the newest mark; null: the marks of versions without branches.
    ADD COLUMN branch uuid,
    -- The last branches before it, the oldest first.
    ADD COLUMN earlier_branches uuid[] NOT NULL DEFAULT '{}',
    -- The number of the last mark of each of them.
    ADD COLUMN branch_ends bigint[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT installation_branches_end CHECK (cardinality(earlier_branches) = cardinality(branch_ends));
