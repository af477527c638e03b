-- When the recipient called the mail spam, as a feedback loop told; null while it has not. Its state stays what it was:
-- the mail had arrived. Makes a complaint that comes twice one event.
ALTER TABLE recipients ADD COLUMN complained_at timestamptz;
