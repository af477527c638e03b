-- The history of a small shop, for pictures of the dashboard. It changes what `make` has sent to addresses of the simulator
-- and the inbox, as if the messages had gone to the internet, and adds a month of statistics.

-- What waits, by destination.
CREATE TEMPORARY TABLE waiting (domain text, stream text, count integer, due interval);
INSERT INTO waiting VALUES
    ('gmx.example', 'transactional', 38, '-14 minutes'), ('mailbox.example', 'bulk', 141, '-3 minutes'),
    ('freemail.example', 'newsletters', 212, '-2 days'), ('school.example', 'transactional', 3, '9 minutes'),
    ('webmail.example', 'newsletters', 27, '4 minutes'), ('city.example', 'alerts', 1, '50 seconds');
INSERT INTO lanes (tenant_id, stream, route, domain, priority)
SELECT t.tenant_id, w.stream, 'mx', w.domain, t.priority FROM waiting w JOIN streams t ON t.name = w.stream
WHERE t.tenant_id = '00000000-0000-0000-0000-000000000000';
INSERT INTO lanes (tenant_id, stream, route, domain, priority)
SELECT t.tenant_id, t.name, 'mx', 'bigmail.example', t.priority FROM streams t
WHERE t.tenant_id = '00000000-0000-0000-0000-000000000000' AND t.name <> 'alerts';
UPDATE lanes SET blocked_since = now() - interval '14 minutes', block_failures = 6, block_reply = '421 4.3.2 Service not available, try again later',
    block_cause = 'refused', block_host = 'mx01.gmx.example', open_at = now() + interval '4 minutes' WHERE domain = 'gmx.example';
UPDATE lanes SET learned_rate = 2.5, learned_ceiling = 20, learned_at = now() - interval '26 minutes', open_at = now() + interval '4 minutes',
    learned_reply = '421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred due to user complaints' WHERE domain = 'mailbox.example';
UPDATE lanes SET paused_at = now() - interval '2 days', pause_reason = 'Their postmaster asked us to wait until Monday' WHERE domain = 'freemail.example';
WITH places AS (
    SELECT l.id, l.domain, w.due, row_number() OVER (ORDER BY l.id, n) AS place
    FROM waiting w JOIN lanes l ON l.domain = w.domain CROSS JOIN generate_series(1, w.count) n
), scheduled AS (
    SELECT q.message_id, q.recipient_id, row_number() OVER (ORDER BY q.message_id) AS place
    FROM queue q JOIN messages m ON m.id = q.message_id WHERE m.scheduled_at IS NOT NULL
), moved AS (
    UPDATE queue q SET lane_id = p.id, due_at = now() + p.due, first_due_at = now() + p.due
    FROM scheduled s JOIN places p USING (place) WHERE q.message_id = s.message_id AND q.recipient_id = s.recipient_id
    RETURNING q.message_id, p.domain
)
UPDATE recipients r SET address = replace(r.address, '@example.test', '@' || m.domain) FROM moved m WHERE r.message_id = m.message_id;
UPDATE messages m SET scheduled_at = NULL, stream = l.stream FROM queue q JOIN lanes l ON l.id = q.lane_id
WHERE q.message_id = m.id AND m.scheduled_at IS NOT NULL AND l.route = 'mx';
UPDATE recipients r SET status = 'deferred', attempts = 1, last_attempt_at = now() - interval '5 minutes' FROM queue q JOIN lanes l ON l.id = q.lane_id
WHERE q.message_id = r.message_id AND l.route = 'mx' AND l.domain <> 'freemail.example';
UPDATE lanes l SET ready_at = w.due FROM (SELECT lane_id, min(due_at) AS due FROM queue GROUP BY lane_id) w WHERE w.lane_id = l.id AND l.route = 'mx';

-- Names instead of scripts of the simulator.
CREATE TEMPORARY TABLE names (script text, address text, mx text);
INSERT INTO names VALUES
    ('%+hiro@%', 'hiro.tanaka@mailbox.example', 'mx2.mailbox.example'), ('%+cho@%', 'cho@bigmail.example', 'mx1.bigmail.example'),
    ('%+lena@%', 'lena.brandt@city.example', 'mail.city.example'), ('%+mara@%', 'mara@webmail.example', 'in.webmail.example'),
    ('%+jonas@%', 'jonas.lind@school.example', 'mx.school.example'), ('%+ivo@%', 'ivo@studio.example', 'mail.studio.example'),
    ('%+eva@%', 'eva.novak@bigmail.example', 'mx1.bigmail.example'), ('%+ann@%', 'ann.olsen@bigmail.example', 'mx1.bigmail.example');
UPDATE events e SET mx = n.mx, ip = '198.51.100.25', tls = 'TLSv1.3', duration_ms = 180 + e.seq % 400 FROM recipients r JOIN names n ON r.address LIKE n.script
WHERE e.recipient_id = r.id AND e.mx IS NOT NULL;
UPDATE events SET response_text = 'Mailbox full, try again later' WHERE response_text ILIKE '%simulat%' AND response_code = 552;
UPDATE events SET response_text = 'Greylisted, please try again in 60 seconds' WHERE response_text ILIKE '%simulat%' AND type = 'message.deferred';
UPDATE events SET response_text = 'No such user here' WHERE response_text ILIKE '%simulat%' AND type = 'message.bounced';
UPDATE events SET response_text = '2.0.0 OK queued as 4XJ2kq0Lz1' WHERE response_text ILIKE '%simulat%';
UPDATE recipients SET response_text = 'Greylisted, please try again in 60 seconds' WHERE response_text ILIKE '%simulat%' AND status = 'deferred';
UPDATE recipients SET response_text = 'No such user here' WHERE response_text ILIKE '%simulat%';
-- The deferred messages wait in the lanes of their destinations.
UPDATE queue q SET lane_id = l.id FROM recipients r JOIN names n ON r.address LIKE n.script, lanes l
WHERE q.message_id = r.message_id AND r.status = 'deferred' AND l.route = 'mx' AND l.domain = split_part(n.address, '@', 2)
    AND l.stream = (SELECT m.stream FROM messages m WHERE m.id = r.message_id);
UPDATE queue SET due_at = now() + interval '7 minutes' WHERE due_at BETWEEN now() AND now() + interval '1 hour'
    AND lane_id IN (SELECT id FROM lanes WHERE route = 'mx' AND domain = 'bigmail.example');
UPDATE lanes l SET ready_at = w.due FROM (SELECT lane_id, min(due_at) AS due FROM queue GROUP BY lane_id) w WHERE w.lane_id = l.id;
UPDATE recipients r SET address = n.address, mx = n.mx FROM names n WHERE r.address LIKE n.script;
INSERT INTO smtp_conversations
SELECT e.tenant_id, e.message_id, e.recipient_id, e.attempt, e.recorded_at, jsonb_build_object('omitted', 0, 'omitted_after', 0, 'lines', (
    SELECT jsonb_agg(jsonb_build_array(at_ms, direction, line)) FROM (VALUES
        (38, '<', '220 mx1.bigmail.example ESMTP ready'), (39, '>', 'EHLO mail.acme.test'), (77, '<', '250-mx1.bigmail.example'), (77, '<', '250-PIPELINING'),
        (77, '<', '250-SIZE 52428800'), (77, '<', '250 STARTTLS'), (78, '>', 'STARTTLS'), (116, '<', '220 Ready to start TLS'),
        (197, '*', 'TLS 1.3 with AES-256-GCM'), (198, '>', 'MAIL FROM:<bounce+4f1c@return.acme.test> SIZE=1184'),
        (198, '>', 'RCPT TO:<ann.olsen@bigmail.example>'), (241, '<', '250 2.1.0 Sender OK'), (242, '<', '451 4.7.1 Greylisted, please try again in 60 seconds'),
        (243, '>', 'QUIT')) c (at_ms, direction, line)))
FROM events e JOIN recipients r ON r.id = e.recipient_id WHERE r.address = 'ann.olsen@bigmail.example' AND e.type = 'message.deferred' ON CONFLICT DO NOTHING;
UPDATE suppressions s SET address = n.address FROM names n WHERE s.address LIKE n.script;

-- Domains: one is verified, one has a record to fix.
UPDATE domains SET created_at = now() - interval '41 days', verified_at = now() - interval '6 minutes', checked_at = now() - interval '6 minutes', check_at = now() + interval '1 day', dmarc = 'quarantine',
    findings = (SELECT jsonb_agg((f || '{"status": "ok"}') - 'fix' - 'warning') FROM jsonb_array_elements(findings) f) WHERE name <> 'news.acme.test';
UPDATE domains SET check_at = now() + interval '1 day', checked_at = now() - interval '2 minutes',
    findings = (SELECT jsonb_agg(CASE f->>'purpose' WHEN 'dmarc' THEN f || '{"status": "missing"}' ELSE (f || '{"status": "ok"}') - 'fix' - 'warning' END) FROM jsonb_array_elements(findings) f)
WHERE name = 'news.acme.test';

-- A month of statistics: busy days, quiet nights, a newsletter every morning, and a destination that was slow yesterday.
DELETE FROM statistics;
DELETE FROM statistics_details;
CREATE TEMPORARY TABLE hours AS
SELECT h, s.stream, p.provider, p.share * s.volume * (1 + 0.9 * sin((extract(hour FROM h AT TIME ZONE 'UTC') - 8) * pi() / 12))
    * CASE WHEN extract(isodow FROM h) > 5 THEN 0.55 ELSE 1 END * (0.9 + 0.2 * abs(sin(extract(epoch FROM h) / 977)))
    + CASE WHEN s.stream = 'newsletters' AND extract(hour FROM h AT TIME ZONE 'UTC') = 9 THEN 2600 * p.share ELSE 0 END AS volume
FROM generate_series(date_trunc('hour', now()) - interval '31 days', date_trunc('hour', now()), interval '1 hour') h,
    (VALUES ('transactional', 900.0), ('newsletters', 120), ('bulk', 180), ('alerts', 25)) s (stream, volume),
    (VALUES ('google', 0.46), ('microsoft365', 0.19), ('outlook', 0.1), ('yahoo', 0.08), ('apple', 0.07), ('gmx', 0.06), ('other', 0.04)) p (provider, share);
CREATE TEMPORARY TABLE spans AS
SELECT 'hour' AS step, h AS start_at, stream, provider, volume FROM hours WHERE h > now() - interval '8 days'
UNION ALL SELECT 'day', date_trunc('day', h AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', stream, provider, sum(volume) FROM hours GROUP BY 2, 3, 4
UNION ALL SELECT 'minute', h + n * interval '1 minute', stream, provider, volume / 60 * (0.7 + 0.6 * abs(sin(n + extract(epoch FROM h) / 311)))
FROM hours, generate_series(0, 59) n WHERE h > now() - interval '3 hours' AND h + n * interval '1 minute' <= now();
INSERT INTO statistics
SELECT '00000000-0000-0000-0000-000000000000', step, start_at, stream, provider, round(volume),
    0, round(volume * (0.975 - CASE provider WHEN 'yahoo' THEN 0.03 ELSE 0 END)), round(volume * 0.012), round(volume * 0.001), round(volume * 0.003), 0, 0,
    round(volume * (CASE provider WHEN 'gmx' THEN 0.16 WHEN 'yahoo' THEN 0.12 ELSE 0.02 END)
        * CASE WHEN start_at BETWEEN now() - interval '19 hours' AND now() - interval '16 hours' THEN 3 ELSE 1 END),
    round(volume * CASE WHEN stream = 'bulk' THEN 0.0014 ELSE 0.0002 END), round(volume * 0.002) FROM spans;
INSERT INTO statistics_details
SELECT '00000000-0000-0000-0000-000000000000', step, start_at, stream, provider, 'latency', b.bucket::text, ceil(volume * b.share) FROM spans,
    LATERAL (VALUES (4, 0.08), (5, 0.34), (6, 0.3), (7, 0.15), (8, 0.06), (9, 0.03),
        (CASE WHEN start_at BETWEEN now() - interval '19 hours' AND now() - interval '16 hours' THEN 13 ELSE 10 END,
         CASE WHEN start_at BETWEEN now() - interval '19 hours' AND now() - interval '16 hours' THEN 0.12 ELSE 0.02 END)) b (bucket, share) WHERE volume * b.share >= 1;
INSERT INTO statistics_details
SELECT '00000000-0000-0000-0000-000000000000', step, start_at, stream, provider, 'bounce', b.category, ceil(volume * 0.012 * b.share) FROM spans,
    (VALUES ('mailbox_unknown', 0.62), ('mailbox_full', 0.2), ('spam', 0.1), ('block', 0.08)) b (category, share) WHERE volume * 0.012 * b.share >= 0.5;
INSERT INTO queue_samples
SELECT '00000000-0000-0000-0000-000000000000', step, start_at, stream, round(sum(volume) * 0.02), round(sum(volume) * 0.004),
    round(4 + 3 * abs(sin(extract(epoch FROM start_at)))) FROM spans GROUP BY 2, 3, 4 ON CONFLICT DO NOTHING;
INSERT INTO queue_sampled SELECT DISTINCT step, start_at FROM spans ON CONFLICT DO NOTHING;
