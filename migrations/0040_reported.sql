-- When a report that came back (a DSN) last moved the recipient to another end state, as from relayed to bounced; null
-- while its state is what an attempt came to. The last reply is the report's then, and finished_at its time.
ALTER TABLE recipients ADD COLUMN reported_at timestamptz;
