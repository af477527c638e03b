-- postrider.send accepts `in_reply_to` and `alternatives`. A process of the previous version accepts such a message, too, but without
-- the headers `In-Reply-To` and `References`.

-- Returns the faults of the field in_reply_to. Stricter than the API: the earlier message must have been accepted, from a domain that
-- the role may send from, and its id is in lower case.
CREATE FUNCTION sql_send_reply(tenant uuid, domains_of_role text[], message jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    given jsonb := message -> 'in_reply_to';
    sender text;
    faults jsonb := '[]';
BEGIN
    IF jsonb_typeof(message -> 'headers') = 'object' THEN
        faults := coalesce((
            SELECT jsonb_agg(sql_send_fault('/headers' || sql_send_step(field), 'forbidden_header',
                                            format('`%s` is set from `in_reply_to`; leave one of them out', "left"(field, 80))) -> 0)
            FROM jsonb_object_keys(message -> 'headers') AS field
            WHERE lower(field) IN ('in-reply-to', 'references')), '[]');
    END IF;
    IF jsonb_typeof(given) <> 'string' THEN
        RETURN faults || sql_send_fault('/in_reply_to', 'invalid_type', 'expected a string');
    ELSIF given #>> '{}' !~ '^msg_[0-9a-f]{32}$' THEN
        RETURN faults || sql_send_fault('/in_reply_to', 'invalid_value',
            'must be the id of an earlier message; for any other message, set the headers `In-Reply-To` and `References`');
    END IF;
    -- Dynamic, so that the plan has the id, and the transaction of the application locks one partition of the messages at most.
    EXECUTE 'SELECT from_address FROM messages WHERE tenant_id = $1 AND id = $2' INTO sender
        USING tenant, right(given #>> '{}', 32)::uuid;
    IF sender IS NULL OR split_part(sender, '@', -1) <> ALL (domains_of_role) THEN
        RETURN faults || sql_send_fault('/in_reply_to', 'unknown_message',
            'no accepted message has this id; to reply to another message, set the headers `In-Reply-To` and `References`');
    END IF;
    RETURN faults;
END
$body$;

-- Returns the faults of the field alternatives. Stricter than the API: a type needs plain parameters, each at most once.
CREATE FUNCTION sql_send_alternatives(value jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    faults jsonb := '[]';
    kinds text[] := '{}';
    item jsonb;
    at text;
    kind text;
BEGIN
    IF jsonb_typeof(value) <> 'array' THEN
        RETURN sql_send_fault('/alternatives', 'invalid_type', 'expected an array');
    ELSIF jsonb_array_length(value) > 5 THEN
        RETURN sql_send_fault('/alternatives', 'too_many', 'at most 5 alternatives are allowed');
    END IF;
    FOR n IN 0 .. jsonb_array_length(value) - 1 LOOP
        item := value -> n;
        at := '/alternatives/' || n;
        faults := faults || sql_send_fields(item, at, ARRAY['content_type', 'content']);
        CONTINUE WHEN jsonb_typeof(item) <> 'object';
        IF NOT item ? 'content' THEN
            faults := faults || sql_send_fault(at || '/content', 'required', '`content` is required');
        ELSIF jsonb_typeof(item -> 'content') <> 'string' THEN
            faults := faults || sql_send_fault(at || '/content', 'invalid_type', 'expected a string');
        END IF;
        IF NOT item ? 'content_type' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'required', '`content_type` is required');
            CONTINUE;
        ELSIF jsonb_typeof(item -> 'content_type') <> 'string' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_type', 'expected a string');
            CONTINUE;
        END IF;
        kind := lower(item ->> 'content_type');
        -- Some other letters become ASCII in lower case.
        IF length(kind) > 255 OR item ->> 'content_type' !~ '^[ -~]*$'
           OR kind !~ '^text/[a-z0-9][a-z0-9!#$&^_.+-]*(; ?[a-z0-9-]+=([a-z0-9!#$&^_.+-]+|"[a-z0-9 !#$&^_.+-]*"))*$'
           OR kind ~ '^text/(plain|html)(;|$)' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_content_type',
                'must be a text type such as `text/calendar; method=REQUEST` or `text/x-amp-html`, and neither text/plain nor text/html');
        ELSIF (SELECT count(*) <> count(DISTINCT name[1]) FROM regexp_matches(kind, '; ?([a-z0-9-]+)=', 'g') AS name) THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_content_type', 'has a parameter twice');
        ELSIF kind ~ '; ?charset=' AND kind !~ '; ?charset=("(utf-8|utf8|us-ascii)"|(utf-8|utf8|us-ascii))(;|$)' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_content_type',
                'must have the charset utf-8, or none: the content is Unicode text');
        ELSIF kind ~ '^text/calendar(;|$)' AND kind !~ '; ?method="?[a-z]' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_content_type',
                'needs the parameter `method`, as in `text/calendar; method=REQUEST`');
        END IF;
        IF split_part(kind, ';', 1) = ANY (kinds) THEN
            faults := faults || sql_send_fault(at || '/content_type', 'duplicate_value',
                'must be unique: another alternative has the same type');
        END IF;
        kinds := kinds || split_part(kind, ';', 1);
    END LOOP;
    RETURN faults;
END
$body$;

-- Checks a message as the API does, or more strictly, so that a process can accept each message that passes. Returns all faults, and
-- the message with the version of its template.
CREATE OR REPLACE FUNCTION sql_send_check(tenant uuid, domains_of_role text[], message jsonb, now timestamptz,
                               OUT faults jsonb, OUT payload jsonb)
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    settings sql_settings;
    template_faults jsonb;
    pinned integer;
    from_template text;
    has_subject boolean;
    file record;
    item jsonb;
    field text;
    n integer;
    most integer;
    given integer := 0;
    bytes bigint := 0;
    inline bigint := 0;
    sender jsonb := message -> 'from';
    host text;
    starts timestamptz;
    ends timestamptz;
    has_files boolean := false;
BEGIN
    SELECT * INTO settings FROM sql_settings;
    payload := message;
    faults := sql_send_fields(message, '', ARRAY['from', 'to', 'cc', 'bcc', 'reply_to', 'subject', 'text', 'html', 'headers',
        'in_reply_to', 'attachments', 'alternatives', 'tags', 'metadata', 'template', 'stream', 'scheduled_at', 'expires_at',
        'on_uncertain']);
    IF message ? 'template' THEN
        SELECT t.faults, t.pinned, t.from_template, t.has_subject INTO template_faults, pinned, from_template, has_subject
        FROM sql_send_template(tenant, message -> 'template') t;
        faults := faults || template_faults;
        IF message ? 'text' OR message ? 'html' THEN
            faults := faults || sql_send_fault(CASE WHEN message ? 'html' THEN '/html' ELSE '/text' END, 'invalid_value',
                'must not be given together with `template`');
        END IF;
        IF pinned IS NOT NULL THEN
            payload := jsonb_set(payload, '{template,version}', to_jsonb(pinned));
            IF sender IS NULL AND from_template !~ '[{}]' THEN
                sender := to_jsonb(from_template);
            END IF;
            IF NOT (message ? 'subject' OR has_subject) THEN
                faults := faults || sql_send_fault('/subject', 'required', '`subject` is required, because the template has none');
            END IF;
        END IF;
    ELSIF NOT message ? 'subject' THEN
        faults := faults || sql_send_fault('/subject', 'required', '`subject` is required');
    END IF;

    IF sender IS NULL THEN
        IF NOT message ? 'template' OR pinned IS NOT NULL THEN
            faults := faults || sql_send_fault('/from', 'required', '`from` is required');
        END IF;
    ELSIF sql_send_address(sender, '/from', NULL) <> '[]' THEN
        faults := faults || sql_send_address(sender, '/from', NULL);
    ELSE
        host := lower(split_part(sql_send_email(sender), '@', 2));
        IF host <> ALL (domains_of_role) THEN
            faults := faults || sql_send_fault('/from', 'forbidden',
                format('this role may send only from %s, not from %s', array_to_string(domains_of_role, ', '), host));
        ELSIF settings.verified_domains_only AND NOT coalesce((
                -- As domain::sender_domain::dns_records::DomainStatus.
                SELECT d.verified_at IS NOT NULL AND coalesce(d.checked_at - d.verified_at < interval '72 hours', true)
                FROM domains d
                WHERE d.tenant_id = tenant AND (d.name = host OR right(host, length(d.name) + 1) = '.' || d.name)
                ORDER BY length(d.name) DESC LIMIT 1), false) THEN
            faults := faults || sql_send_fault('/from', 'unverified_domain', format('%s is not registered or not verified', host));
        END IF;
    END IF;

    FOREACH field IN ARRAY ARRAY['to', 'cc', 'bcc', 'reply_to'] LOOP
        CONTINUE WHEN NOT message ? field;
        item := message -> field;
        most := CASE field WHEN 'reply_to' THEN 10 ELSE greatest(settings.recipients - given, 0) END;
        n := CASE jsonb_typeof(item) WHEN 'array' THEN jsonb_array_length(item) ELSE 1 END;
        IF n > most THEN
            faults := faults || sql_send_fault('/' || field, 'too_many', CASE field
                WHEN 'reply_to' THEN 'at most 10 addresses are allowed'
                ELSE format('`to`, `cc` and `bcc` together may have at most %s recipients', settings.recipients) END);
        ELSIF jsonb_typeof(item) = 'array' THEN
            FOR n IN 0 .. n - 1 LOOP
                faults := faults || sql_send_address(item -> n, '/' || field || '/' || n,
                                                     CASE WHEN field <> 'reply_to' THEN settings.simulator END);
            END LOOP;
            n := jsonb_array_length(item);
        ELSE
            faults := faults || sql_send_address(item, '/' || field, CASE WHEN field <> 'reply_to' THEN settings.simulator END);
        END IF;
        IF field <> 'reply_to' THEN
            given := given + n;
        END IF;
    END LOOP;
    IF given = 0 THEN
        faults := faults || sql_send_fault('/to', 'required', 'at least one recipient in `to`, `cc` or `bcc` is required');
    END IF;

    IF message ? 'subject' THEN
        faults := faults || sql_send_line(message -> 'subject', '/subject', 0, 998);
    END IF;
    FOREACH field IN ARRAY ARRAY['text', 'html'] LOOP
        IF message ? field AND jsonb_typeof(message -> field) <> 'string' THEN
            faults := faults || sql_send_fault('/' || field, 'invalid_type', 'expected a string');
        END IF;
    END LOOP;

    IF message ? 'attachments' THEN
        IF jsonb_typeof(message -> 'attachments') <> 'array' THEN
            faults := faults || sql_send_fault('/attachments', 'invalid_type', 'expected an array');
        ELSIF jsonb_array_length(message -> 'attachments') > settings.attachments THEN
            faults := faults || sql_send_fault('/attachments', 'too_many',
                format('at most %s attachments are allowed', settings.attachments));
        ELSE
            FOR n IN 0 .. jsonb_array_length(message -> 'attachments') - 1 LOOP
                has_files := true;
                item := message -> 'attachments' -> n;
                file := sql_send_attachment(tenant, item, '/attachments/' || n);
                faults := faults || file.faults;
                bytes := bytes + file.size;
                inline := inline + CASE WHEN item ? 'content' THEN file.size ELSE 0 END;
            END LOOP;
            IF (SELECT count(a ->> 'content_id') <> count(DISTINCT a ->> 'content_id')
                FROM jsonb_array_elements(message -> 'attachments') AS a WHERE jsonb_typeof(a) = 'object') THEN
                faults := faults || sql_send_fault('/attachments', 'duplicate_value', 'two attachments have the same `content_id`');
            END IF;
            IF inline > 1048576 THEN
                faults := faults || sql_send_fault('/attachments', 'too_large',
                    'the `content` of all attachments may have at most 1 MiB; upload larger files with `PUT /v1/blobs/{sha256}`');
            ELSIF bytes > settings.attachment_bytes THEN
                faults := faults || sql_send_fault('/attachments', 'too_large',
                    format('must have at most %s bytes together', settings.attachment_bytes));
            END IF;
        END IF;
    END IF;
    -- An HTML body of white space counts as absent. A text does not, if there is no HTML.
    IF NOT (has_files OR message ? 'template' OR message ? 'text')
       AND (NOT message ? 'html' OR message ->> 'html' !~ '[^\s\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]') THEN
        faults := faults || sql_send_fault('/text', 'required', '`text` or `html` is required if there are no attachments');
    END IF;

    IF message ? 'headers' THEN
        IF jsonb_typeof(message -> 'headers') <> 'object' THEN
            faults := faults || sql_send_fault('/headers', 'invalid_type', 'expected an object');
        ELSIF (SELECT count(*) FROM jsonb_object_keys(message -> 'headers')) > settings.headers THEN
            faults := faults || sql_send_fault('/headers', 'too_many', format('at most %s headers are allowed', settings.headers));
        ELSE
            FOR field, item IN SELECT * FROM jsonb_each(message -> 'headers') LOOP
                faults := faults || sql_send_header(field, item);
            END LOOP;
            IF (SELECT count(*) <> count(DISTINCT lower(key)) FROM jsonb_object_keys(message -> 'headers') AS key) THEN
                faults := faults || sql_send_fault('/headers', 'duplicate_field', 'header names are case-insensitive');
            END IF;
        END IF;
    END IF;

    IF message ? 'in_reply_to' THEN
        faults := faults || sql_send_reply(tenant, domains_of_role, message);
    END IF;
    IF message ? 'alternatives' THEN
        faults := faults || sql_send_alternatives(message -> 'alternatives');
    END IF;

    IF message ? 'tags' THEN
        IF jsonb_typeof(message -> 'tags') <> 'array' THEN
            faults := faults || sql_send_fault('/tags', 'invalid_type', 'expected an array');
        ELSIF jsonb_array_length(message -> 'tags') > settings.tags THEN
            faults := faults || sql_send_fault('/tags', 'too_many', format('at most %s tags are allowed', settings.tags));
        ELSE
            FOR n IN 0 .. jsonb_array_length(message -> 'tags') - 1 LOOP
                item := message -> 'tags' -> n;
                faults := faults || sql_send_fields(item, '/tags/' || n, ARRAY['name', 'value']);
                CONTINUE WHEN jsonb_typeof(item) <> 'object';
                FOREACH field IN ARRAY ARRAY['name', 'value'] LOOP
                    IF NOT item ? field THEN
                        faults := faults || sql_send_fault(format('/tags/%s/%s', n, field), 'required', format('`%s` is required', field));
                    ELSIF jsonb_typeof(item -> field) <> 'string' OR length(item ->> field) > 256
                          OR item ->> field !~ '^[A-Za-z0-9_-]+$' THEN
                        faults := faults || sql_send_fault(format('/tags/%s/%s', n, field), 'invalid_value',
                            'must be 1–256 ASCII letters, digits, `_` and `-`');
                    END IF;
                END LOOP;
            END LOOP;
        END IF;
    END IF;

    IF message ? 'metadata' THEN
        IF jsonb_typeof(message -> 'metadata') <> 'object' THEN
            faults := faults || sql_send_fault('/metadata', 'invalid_type', 'expected an object');
        ELSIF (SELECT count(*) FROM jsonb_object_keys(message -> 'metadata')) > 50 THEN
            faults := faults || sql_send_fault('/metadata', 'too_many', 'at most 50 entries are allowed');
        ELSE
            FOR field, item IN SELECT * FROM jsonb_each(message -> 'metadata') LOOP
                IF jsonb_typeof(item) <> 'string' THEN
                    faults := faults || sql_send_fault('/metadata' || sql_send_step(field), 'invalid_type', 'expected a string');
                END IF;
                faults := faults || sql_send_line(to_jsonb(field), '/metadata' || sql_send_step(field), 1, 256);
            END LOOP;
            IF (SELECT sum(octet_length(key) + octet_length(value)) FROM jsonb_each_text(message -> 'metadata')) > 16384 THEN
                faults := faults || sql_send_fault('/metadata', 'too_large', 'names and values may have at most 16384 bytes together');
            END IF;
        END IF;
    END IF;

    field := coalesce(message ->> 'stream', 'transactional');
    IF NOT EXISTS (SELECT FROM streams s WHERE s.tenant_id = tenant AND s.name = field)
       OR jsonb_typeof(message -> 'stream') <> 'string' THEN
        faults := faults || sql_send_fault('/stream', 'unknown_stream', 'unknown stream');
    END IF;

    IF message ? 'scheduled_at' THEN
        starts := sql_send_time(message -> 'scheduled_at');
        IF starts IS NULL THEN
            faults := faults || sql_send_fault('/scheduled_at', 'invalid_timestamp',
                'must be an RFC 3339 time with a zone, such as 2026-12-01T09:00:00Z');
        ELSIF starts >= now + make_interval(secs => settings.schedule_ahead) - interval '1 second' THEN
            faults := faults || sql_send_fault('/scheduled_at', 'invalid_timestamp',
                format('must be at most %s days ahead', settings.schedule_ahead / 86400));
        END IF;
    END IF;
    IF message ? 'expires_at' THEN
        ends := sql_send_time(message -> 'expires_at');
        IF ends IS NULL THEN
            faults := faults || sql_send_fault('/expires_at', 'invalid_timestamp',
                'must be an RFC 3339 time with a zone, such as 2026-12-01T09:00:00Z');
        ELSIF ends < now + interval '1 second' THEN
            faults := faults || sql_send_fault('/expires_at', 'invalid_timestamp', 'must be in the future');
        ELSIF ends < starts + interval '1 second' THEN
            faults := faults || sql_send_fault('/expires_at', 'invalid_timestamp', 'must be later than `scheduled_at`');
        END IF;
    END IF;
    IF message ? 'on_uncertain' AND coalesce(message ->> 'on_uncertain', '') NOT IN ('retry', 'hold', 'fail') THEN
        faults := faults || sql_send_fault('/on_uncertain', 'invalid_value', 'use `retry`, `hold` or `fail`');
    END IF;
END
$body$;

-- The functions are called through postrider.send only.
REVOKE ALL ON FUNCTION sql_send_reply(uuid, text[], jsonb), sql_send_alternatives(jsonb) FROM PUBLIC;
