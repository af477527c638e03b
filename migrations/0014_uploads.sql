-- Uploads: attachments that are stored before the message that refers to them, and the deletion of those that no message
-- refers to.

-- Uploads of attachments in progress, and deleted blobs whose bytes are not deleted yet. Their chunks are in blob_chunks, with
-- uuid_send(id), 16 bytes, in place of blob_chunks.sha256: the digest is known only at the end. Completing an upload inserts
-- the row in blobs, sets blob_chunks.sha256 and deletes this row, in one transaction. So a chunk with a digest of 32 bytes
-- belongs to a row in blobs, and every other chunk to a row of this table.
CREATE TABLE uploads (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- UUIDv7 with the time at which the upload began.
    id uuid NOT NULL,
    -- At and after this time workers delete the chunks, and then this row; the upload can no longer be completed.
    expires_at timestamptz NOT NULL,
    -- Serves adding chunks and completing the upload.
    PRIMARY KEY (tenant_id, id)
);
-- Serves workers, which delete expired uploads.
CREATE INDEX uploads_expiring ON uploads (expires_at);

-- Which blobs the attachments of a content refer to. A row is inserted before the content, so that there is no moment at which
-- a content refers to a blob that could be deleted. The content of a row may be missing: its request failed, or it was deleted.
CREATE TABLE blob_references (
    tenant_id uuid NOT NULL,
    -- blobs.sha256.
    sha256 bytea NOT NULL,
    -- contents.id.
    content_id uuid NOT NULL,
    -- Serves the check whether a content refers to a blob, the newest content first.
    PRIMARY KEY (sha256, tenant_id, content_id)
) PARTITION BY RANGE (content_id);
CREATE TABLE blob_references_default PARTITION OF blob_references DEFAULT;

-- When a worker next checks whether the blob is unused: no content refers to it, and used_at is longer ago than
-- retention.unused_blobs. Such a blob is deleted. Null: the blob was stored by a version that did not record references, and
-- is never deleted.
ALTER TABLE blobs ADD COLUMN check_at timestamptz;
-- Serves workers, which check the blobs whose check is due.
CREATE INDEX blobs_check_at ON blobs (check_at) WHERE check_at IS NOT NULL;
