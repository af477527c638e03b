-- Large attachments in an object store (S3), if one is configured (`attachments.bucket`).

-- The key of the object with the bytes; null: the bytes are in blob_chunks. Keys begin with attachments.prefix at the time of the
-- upload, and end with the SHA-256 and the id of the upload, so no key is used twice.
ALTER TABLE blobs ADD COLUMN object_key text;

-- Objects that no row of blobs refers to: those that are being stored, and those that are to be deleted. An object is entered
-- before it is stored, and the transaction that inserts its row in blobs removes it from here. The transaction that deletes a row
-- in blobs enters its object again. So every object is in exactly one of the two tables, whenever a process ends.
CREATE TABLE unreferenced_objects (
    object_key text PRIMARY KEY,
    -- At and after this time, workers delete the object, and then this row. A day after the beginning of an upload.
    delete_at timestamptz NOT NULL,
    -- Whether a worker has begun to delete the object: from then on, no row of blobs may refer to it.
    is_deleting boolean NOT NULL DEFAULT false
);
-- Serves workers, which delete what is due.
CREATE INDEX unreferenced_objects_due ON unreferenced_objects (delete_at);
