-- The webhook endpoint that an event is about: the one that a test (webhook.test) goes to, and to no other, or the one that
-- was disabled (webhook.disabled). Null for what happens to mail.
ALTER TABLE events ADD COLUMN endpoint_id uuid;
