-- The size of the message that a recipient of a bulk becomes, in bytes: its rendered text and HTML. 0 without a template, because
-- all messages then have the bodies of the content, and for recipients that an earlier version accepted.
ALTER TABLE bulk_recipients ADD COLUMN size integer NOT NULL DEFAULT 0 CHECK (size >= 0);
