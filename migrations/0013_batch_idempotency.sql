-- The Idempotency-Key of a call of POST /v1/messages/batch has a row in idempotency_keys, too: message_ids has the ids of all
-- messages that the call created, in the order of the request, and fingerprint and request_digest are those of the whole call.
ALTER TABLE idempotency_keys
    -- Null: the key belongs to a single message. For a call, what its response had besides the messages that it created:
    -- "ids", the id of the message of each position in the request (null: refused), without it those in message_ids; "errors",
    -- the refused messages as in the response, only with permissive validation.
    ADD COLUMN batch_response jsonb;
