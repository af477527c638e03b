-- Attachments, stored once a tenant however many messages carry them. A row here says that all chunks are there.
CREATE TABLE blobs (
    tenant_id uuid NOT NULL REFERENCES tenants,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    -- Octets in all chunks.
    size bigint NOT NULL,
    -- When a message last asked for it: what is not referenced and has not been asked for in a day may go.
    used_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, sha256)
);

-- Their bytes, a mebibyte a row, so that no statement, buffer or transaction grows with the attachment.
CREATE TABLE blob_chunks (
    tenant_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    -- From 0; together in this order they are the attachment.
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, sha256, n)
);
-- Attachments are mostly compressed already: not worth trying.
ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- What messages say: immutable, and shared by all messages of a bulk send.
CREATE TABLE contents (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    text text,
    html text,
    -- [{"name", "value"}], in the sender's order.
    headers jsonb NOT NULL,
    -- [{"filename", "content_type", "content_id", "sha256", "size"}], in the sender's order.
    attachments jsonb NOT NULL,
    -- The id first: a new week's partition has no statistics, and a plan must not take the tenant for selective.
    PRIMARY KEY (id, tenant_id)
) PARTITION BY RANGE (id);
CREATE TABLE contents_default PARTITION OF contents DEFAULT;

-- lz4 costs a tenth of pglz's time; a Postgres built without it keeps its default.
DO $$ BEGIN
    ALTER TABLE contents ALTER COLUMN text SET COMPRESSION lz4, ALTER COLUMN html SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
