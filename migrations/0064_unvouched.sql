-- What a report that came back said of this recipient by a return path that other recipients of the message know as well:
-- 'bounced', 'delivered', 'complained', each at most once. Any of them may have forged it, so it changes nothing but that an
-- event tells of it; on record here, the same report twice is one event. Null: nothing.
ALTER TABLE recipients ADD COLUMN unvouched text[];
COMMENT ON COLUMN recipients.unvouched IS
    'Reports by a return path that several recipients know (bounced, delivered, complained); each is one event and changes no state';
