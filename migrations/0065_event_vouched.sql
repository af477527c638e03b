-- Of a report that came back: true where its return path names this recipient alone, or the message had one recipient; false
-- where other recipients know the return path as well and may have forged the report, so that no state changed and nothing
-- was suppressed. Null for everything else.
ALTER TABLE events ADD COLUMN vouched boolean;
COMMENT ON COLUMN events.vouched IS
    'Of a report that came back: false where other recipients know its return path and may have forged it; null otherwise';
