-- Whether mail of this stream carries a link by which its recipient is rid of the stream (RFC 8058).
ALTER TABLE streams ADD unsubscribe boolean NOT NULL DEFAULT false;
