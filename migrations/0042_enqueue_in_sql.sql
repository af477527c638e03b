-- Enqueue from SQL: applications on the same database send messages with postrider.send in their own transactions. The function
-- validates the message and inserts one row into sql_inbox. A process with the API turns each committed row into a message, in the
-- transaction that deletes the row (accept::sql_inbox).
--
-- The function takes no lock that requests of the API need, appends no event (event numbers have no gaps, so their counter would be
-- locked until the application commits) and sends no NOTIFY (a lock would serialise the application's commits).

-- The roles of the database server that may send, with the tenant that they send for. `postrider sql-grant` writes the rows. A role
-- that is a member of one of these roles may send, too.
CREATE TABLE sql_senders (
    -- pg_roles.rolname.
    role name PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- Domains that the role may send from, as A-labels; null: any.
    sender_domains text[] CHECK (cardinality(sender_domains) > 0),
    created_at timestamptz NOT NULL
);

-- Messages of committed transactions that no process has accepted yet, and refused ones. Short: a row is deleted by the transaction
-- that inserts its message. There is no foreign key to tenants, so that a transaction of an application locks no tenant.
CREATE TABLE sql_inbox (
    -- tenants.id.
    tenant_id uuid NOT NULL,
    -- The id of the message, a UUIDv7 with the time of the call.
    id uuid NOT NULL,
    -- The message, as the body of POST /v1/messages. Validated.
    payload jsonb NOT NULL,
    -- Length of the payload's text, in bytes.
    size integer NOT NULL,
    -- sql_senders.role.
    role name NOT NULL,
    -- streams.name. Streams take turns, so that a newsletter does not delay other messages.
    stream text NOT NULL DEFAULT 'transactional',
    -- When the application called the function; becomes the time at which the message was accepted.
    created_at timestamptz NOT NULL,
    -- Until when one process works on the row, or until when the row waits; other processes skip it until then.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Why the row waits. quota: the tenant's recipients of this day are used up. Null: no reason.
    waits_for text CHECK (waits_for IN ('quota')),
    -- When the message was refused in spite of the validation; null: it was not. A refused row is kept for an operator.
    refused_at timestamptz,
    -- The faults of a refused message, [{"pointer", "code", "message"}].
    errors jsonb,
    CONSTRAINT sql_inbox_refused_has_errors CHECK ((refused_at IS NULL) = (errors IS NULL)),
    -- Serves the transaction that inserts the messages, and the deletion of tenants.
    PRIMARY KEY (tenant_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- Serves processes, which claim the oldest rows and the newest ones.
CREATE INDEX sql_inbox_waiting ON sql_inbox (id) WHERE refused_at IS NULL;
-- Serves the metrics and `postrider doctor`.
CREATE INDEX sql_inbox_refused ON sql_inbox (refused_at) WHERE refused_at IS NOT NULL;

-- lz4 compresses about ten times as fast as pglz. A Postgres server built without lz4 uses its default.
DO $$ BEGIN
    ALTER TABLE sql_inbox ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- The settings of the service that postrider.send applies. Each process with the API writes its own when it starts.
CREATE TABLE sql_settings (
    -- Always true, so that there is one row.
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Maximum number of recipients, attachments, custom headers and tags of a message.
    recipients integer NOT NULL DEFAULT 50,
    attachments integer NOT NULL DEFAULT 20,
    headers integer NOT NULL DEFAULT 50,
    tags integer NOT NULL DEFAULT 20,
    -- Maximum number of bytes of all attachments of a message.
    attachment_bytes bigint NOT NULL DEFAULT 41943040,
    -- Maximum number of seconds until scheduled_at.
    schedule_ahead bigint NOT NULL DEFAULT 31536000,
    -- Whether messages to simulator addresses are accepted.
    simulator boolean NOT NULL DEFAULT true,
    -- Whether messages from domains that are not verified are refused.
    verified_domains_only boolean NOT NULL DEFAULT false
);
INSERT INTO sql_settings DEFAULT VALUES;

-- Returns a list with one fault.
CREATE FUNCTION sql_send_fault(pointer text, code text, message text) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN jsonb_build_array(jsonb_build_object('pointer', pointer, 'code', code, 'message', message));

-- Returns the step of a JSON pointer for a field (RFC 6901).
CREATE FUNCTION sql_send_step(field text) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN '/' || replace(replace("left"(field, 80), '~', '~0'), '/', '~1');

-- Returns the faults of an object that may have only these fields; none if the value is such an object.
CREATE FUNCTION sql_send_fields(value jsonb, pointer text, allowed text[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF jsonb_typeof(value) <> 'object' THEN
        RETURN sql_send_fault(pointer, 'invalid_type', 'expected an object');
    END IF;
    RETURN coalesce((
        SELECT jsonb_agg(sql_send_fault(pointer || sql_send_step(field), 'unknown_field',
                                        'unknown field; allowed are ' || array_to_string(allowed, ', ')) -> 0)
        FROM (SELECT field FROM jsonb_object_keys(value) AS field WHERE field <> ALL (allowed) LIMIT 20) unknown), '[]');
END
$body$;

-- Returns the faults of a text on one line, whose length in characters must be from `shortest` to `longest`.
CREATE FUNCTION sql_send_line(value jsonb, pointer text, shortest integer, longest integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    line text := value #>> '{}';
BEGIN
    IF jsonb_typeof(value) <> 'string' THEN
        RETURN sql_send_fault(pointer, 'invalid_type', 'expected a string');
    ELSIF line ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RETURN sql_send_fault(pointer, 'control_character', 'must not contain a control character');
    ELSIF length(line) < shortest THEN
        RETURN sql_send_fault(pointer, 'required', 'must not be empty');
    ELSIF length(line) > longest THEN
        RETURN sql_send_fault(pointer, 'too_long', format('must have at most %s characters', longest));
    END IF;
    RETURN '[]';
END
$body$;

-- Returns the address in a mailbox: "a@b", "Name <a@b>" or {"email", "name"}.
CREATE FUNCTION sql_send_email(value jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE jsonb_typeof(value)
        WHEN 'object' THEN value ->> 'email'
        WHEN 'string' THEN coalesce(substring(value #>> '{}' FROM '<([^<>]*)>$'), value #>> '{}')
    END;

-- Returns the faults of a mailbox. Stricter than the API: only ASCII addresses without quotes, no address literals, and no
-- internationalised domains. simulator: whether simulator addresses are accepted; null: the address is not a recipient.
CREATE FUNCTION sql_send_address(value jsonb, pointer text, simulator boolean) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    whole text := value #>> '{}';
    address text := sql_send_email(value);
    at text := pointer;
    display text;
    faults jsonb := '[]';
    host text;
BEGIN
    IF jsonb_typeof(value) = 'object' THEN
        at := pointer || '/email';
        faults := sql_send_fields(value, pointer, ARRAY['email', 'name']);
        IF value ? 'name' THEN
            faults := faults || sql_send_line(value -> 'name', pointer || '/name', 0, 256);
        END IF;
        IF NOT value ? 'email' THEN
            RETURN faults || sql_send_fault(at, 'required', '`email` is required');
        ELSIF jsonb_typeof(value -> 'email') <> 'string' THEN
            RETURN faults || sql_send_fault(at, 'invalid_type', 'expected a string');
        END IF;
    ELSIF jsonb_typeof(value) <> 'string' THEN
        RETURN sql_send_fault(pointer, 'invalid_type', 'expected an address: a string, or an object with `email` and `name`');
    ELSE
        IF whole ~ '[\u0001-\u001f\u007f-\u009f]' THEN
            RETURN sql_send_fault(pointer, 'control_character', 'must not contain a control character');
        END IF;
        IF right(whole, 1) = '>' THEN
            display := btrim(substring(whole FROM '^([^<>]*)<[^<>]*>$'));
            IF display IS NULL OR length(display) > 256
               OR NOT (display ~ '^"[^"\\]*"$' OR display ~ '^[^"@,;:\\()]*$') THEN
                RETURN sql_send_fault(pointer, 'invalid_address',
                    'the name before the address has a special character or is too long; use an object with `email` and `name`');
            END IF;
        END IF;
    END IF;
    host := lower(split_part(address, '@', 2));
    IF octet_length(address) > 254 OR octet_length(split_part(address, '@', 1)) > 64
       OR address !~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
       OR host ~ '(^|\.)..--' OR host ~ '(^|\.)[0-9]+$' THEN
        RETURN faults || sql_send_fault(at, 'invalid_address',
            'must be an address such as ann@example.com: ASCII, without quotes; the HTTP API accepts further forms');
    END IF;
    IF host = 'simulator.postrider.test' AND simulator IS NOT NULL THEN
        IF NOT simulator THEN
            RETURN faults || sql_send_fault(at, 'not_configured',
                'the simulator is disabled; set `simulator.enabled`, or use another address');
        ELSIF lower(split_part(split_part(address, '@', 1), '+', 1)) !~
              '^(delivered|relayed|greylist|expired|drop-after-dot|drop-connect|drop-rcpt|tls-fail|dns-fail|auto-reply|suppressed|unsubscribe|bounce|bounce-data|dsn|complaint|bounce(-data)?-5[0-9][0-9]|defer-[1-9])$' THEN
            RETURN faults || sql_send_fault(at, 'invalid_value',
                'is not a script of the simulator that can be used from SQL; the HTTP API accepts all scripts');
        END IF;
    END IF;
    RETURN faults;
END
$body$;

-- Returns a time in RFC 3339; null if the text is none.
CREATE FUNCTION sql_send_time(value jsonb) RETURNS timestamptz
    LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF jsonb_typeof(value) = 'string' AND value #>> '{}' ~
       '^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$' THEN
        RETURN (value #>> '{}')::timestamptz;
    END IF;
    RETURN NULL;
EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
    RETURN NULL;
END
$body$;

-- Returns the faults of a custom header. Stricter than the API: a value with other characters than ASCII, or with more than 900
-- characters, is only allowed in an X- header.
CREATE FUNCTION sql_send_header(field text, value jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    at text := '/headers' || sql_send_step(field);
    faults jsonb := sql_send_line(value, at, 0, 998);
BEGIN
    IF field !~ '^[!-9;-~]+$' THEN
        RETURN sql_send_fault(at, 'invalid_header',
            'a header name must be printable ASCII characters without spaces and colons');
    ELSIF length(field) > 76 THEN
        RETURN sql_send_fault(at, 'too_long', 'a header name must have at most 76 characters');
    ELSIF lower(field) ~ '^(from|sender|to|cc|bcc|reply-to|subject|date|message-id|mime-version|content-.+|return-path|received(-.+)?|delivered-to|apparently-to|resent-.+|dkim-signature|domainkey-signature|arc-.+|authentication-results)$' THEN
        RETURN sql_send_fault(at, 'forbidden_header', 'Postrider sets this header itself, or from another field');
    ELSIF faults = '[]' AND (value #>> '{}' !~ '^[ -~]{0,250}[ -~]{0,250}[ -~]{0,250}[ -~]{0,150}$')
          AND (field !~* '^x-' OR lower(field) IN ('x-auto-response-suppress', 'x-face', 'x-msmail-priority',
                                                   'x-original-message-id', 'x-priority', 'x-confirm-reading-to')) THEN
        RETURN sql_send_fault(at, 'invalid_header',
            'only an X- header may have characters other than ASCII, or more than 900 characters, in a message from SQL');
    END IF;
    RETURN faults;
END
$body$;

-- Returns the faults of an attachment, and its size in bytes. Locks a blob that the attachment refers to against deletion; the lock
-- does not conflict with those of requests.
CREATE FUNCTION sql_send_attachment(tenant uuid, value jsonb, at text, OUT faults jsonb, OUT size bigint)
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    plain text;
    kind text := value ->> 'content_type';
BEGIN
    size := 0;
    faults := sql_send_fields(value, at, ARRAY['filename', 'content', 'sha256', 'content_type', 'content_id']);
    IF jsonb_typeof(value) <> 'object' THEN
        RETURN;
    END IF;
    IF value ? 'filename' THEN
        faults := faults || sql_send_line(value -> 'filename', at || '/filename', 1, 255);
    ELSE
        faults := faults || sql_send_fault(at || '/filename', 'required', '`filename` is required');
    END IF;
    IF (value ? 'content') = (value ? 'sha256') THEN
        faults := faults || sql_send_fault(at || '/content', CASE WHEN value ? 'content' THEN 'invalid_value' ELSE 'required' END,
            'exactly one of `content` and `sha256` is required');
    ELSIF value ? 'content' THEN
        plain := translate(value ->> 'content', E' \t\r\n', '');
        IF jsonb_typeof(value -> 'content') <> 'string' THEN
            faults := faults || sql_send_fault(at || '/content', 'invalid_type', 'expected a string');
        ELSIF length(plain) % 4 <> 0 OR plain !~ '^[A-Za-z0-9+/]*={0,2}$'
              OR plain <> translate(encode(decode(plain, 'base64'), 'base64'), E'\n', '') THEN
            faults := faults || sql_send_fault(at || '/content', 'invalid_base64', 'must be base64 with padding');
        ELSE
            size := length(plain) / 4 * 3 - (length(plain) - length(rtrim(plain, '=')));
        END IF;
    ELSIF jsonb_typeof(value -> 'sha256') <> 'string' OR value ->> 'sha256' !~ '^[0-9A-Fa-f]{64}$' THEN
        faults := faults || sql_send_fault(at || '/sha256', 'invalid_value',
            'must be the SHA-256 of the file, as 64 hexadecimal digits');
    ELSE
        SELECT b.size INTO size FROM blobs b
        WHERE b.tenant_id = tenant AND b.sha256 = decode(value ->> 'sha256', 'hex') FOR KEY SHARE;
        IF NOT FOUND THEN
            size := 0;
            faults := faults || sql_send_fault(at || '/sha256', 'unknown_blob',
                'no file with this SHA-256 is stored; upload it with `PUT /v1/blobs/{sha256}`');
        END IF;
    END IF;
    IF value ? 'content_type' THEN
        IF sql_send_line(value -> 'content_type', at, 1, 255) <> '[]'
           OR kind !~ '^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(; ?[A-Za-z0-9-]+=([A-Za-z0-9!#$&^_.+-]+|"[A-Za-z0-9 !#$&^_.+-]*"))*$'
           OR kind ~* '^(multipart|message)/' THEN
            faults := faults || sql_send_fault(at || '/content_type', 'invalid_content_type',
                'must be a media type such as `application/pdf` or `text/csv; charset=utf-8`, and neither multipart nor message');
        END IF;
    END IF;
    IF value ? 'content_id' AND (sql_send_line(value -> 'content_id', at, 1, 128) <> '[]'
                                 OR value ->> 'content_id' !~ '^[!-~]+$' OR value ->> 'content_id' ~ '[]<>()",;:\\[]') THEN
        faults := faults || sql_send_fault(at || '/content_id', 'invalid_value',
            'must be printable ASCII without spaces and without <>()[]",;:\');
    END IF;
END
$body$;

-- Returns the faults of the field template, the number of the version that the message is rendered from, and the sender of that
-- version. Checks the declared variables, but renders nothing.
CREATE FUNCTION sql_send_template(tenant uuid, value jsonb, OUT faults jsonb, OUT pinned integer, OUT from_template text,
                                  OUT has_subject boolean)
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    template uuid;
    latest integer;
    declared jsonb;
    variable jsonb;
    given jsonb;
    at text;
BEGIN
    faults := sql_send_fields(value, '/template', ARRAY['id', 'version', 'variables']);
    IF faults <> '[]' THEN
        RETURN;
    END IF;
    IF jsonb_typeof(value -> 'id') IS DISTINCT FROM 'string' THEN
        faults := sql_send_fault('/template/id', 'required', '`id` is required: the id or the alias of a template');
        RETURN;
    END IF;
    IF value ? 'version' AND (jsonb_typeof(value -> 'version') <> 'number' OR value ->> 'version' !~ '^[1-9][0-9]{0,8}$') THEN
        faults := sql_send_fault('/template/version', 'invalid_value', 'must be a whole number');
        RETURN;
    END IF;
    IF jsonb_typeof(coalesce(value -> 'variables', '{}')) <> 'object' THEN
        faults := sql_send_fault('/template/variables', 'invalid_type', 'expected an object');
        RETURN;
    END IF;
    IF value ->> 'id' ~ '^tpl_[0-9a-f]{32}$' THEN
        SELECT t.id, t.version INTO template, latest FROM templates t
        WHERE t.tenant_id = tenant AND t.id = right(value ->> 'id', 32)::uuid;
    ELSE
        SELECT t.id, t.version INTO template, latest FROM templates t WHERE t.tenant_id = tenant AND t.alias = value ->> 'id';
    END IF;
    IF template IS NULL THEN
        faults := sql_send_fault('/template/id', 'unknown_template', 'there is no such template');
        RETURN;
    ELSIF latest IS NULL THEN
        faults := sql_send_fault('/template/id', 'not_published', 'the template is not published yet');
        RETURN;
    END IF;
    pinned := coalesce((value ->> 'version')::integer, latest);
    SELECT v.sender, v.subject IS NOT NULL, v.variables INTO from_template, has_subject, declared FROM template_versions v
    WHERE v.tenant_id = tenant AND v.template_id = template AND v.version = pinned;
    IF NOT FOUND THEN
        faults := sql_send_fault('/template/version', 'unknown_template',
            format('there is no such version; the latest is %s', latest));
        RETURN;
    END IF;
    given := coalesce(value -> 'variables', '{}');
    IF (SELECT count(*) FROM jsonb_object_keys(given)) > 100
       OR EXISTS (SELECT FROM jsonb_object_keys(given) AS key WHERE length(key) NOT BETWEEN 1 AND 50
                                                                  OR key ~ '[\u0001-\u001f\u007f-\u009f]') THEN
        faults := sql_send_fault('/template/variables', 'too_many',
            'at most 100 variables are allowed, with names of at most 50 characters');
        RETURN;
    END IF;
    IF jsonb_path_exists(given, '$.**{20}') OR octet_length(given::text) > 65536
       OR jsonb_array_length(jsonb_path_query_array(given, '$.**')) > 5000
       OR jsonb_path_exists(given, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') THEN
        faults := sql_send_fault('/template/variables', 'too_large',
            'must have at most 64 KiB and 5000 values, be nested less than 20 levels deep, and have no numbers above 1e300');
        RETURN;
    END IF;
    FOR variable IN SELECT * FROM jsonb_array_elements(declared) LOOP
        at := '/template/variables' || sql_send_step(variable ->> 'key');
        IF NOT given ? (variable ->> 'key') OR given -> (variable ->> 'key') = 'null' THEN
            IF (variable ->> 'required')::boolean AND coalesce(variable -> 'default', 'null') = 'null' THEN
                faults := faults || sql_send_fault(at, 'required', format('the template needs `%s`', variable ->> 'key'));
            END IF;
        ELSIF jsonb_typeof(given -> (variable ->> 'key')) <> variable ->> 'type' THEN
            faults := faults || sql_send_fault(at, 'invalid_type', format('expected a value of the type %s', variable ->> 'type'));
        ELSIF (CASE variable ->> 'type' WHEN 'string' THEN length(given ->> (variable ->> 'key'))
                                        WHEN 'array' THEN jsonb_array_length(given -> (variable ->> 'key')) END)
              > (variable ->> 'max_length')::bigint THEN
            faults := faults || sql_send_fault(at, 'too_long',
                format('must have at most %s characters or items', variable ->> 'max_length'));
        END IF;
    END LOOP;
END
$body$;

-- Checks a message as the API does, or more strictly, so that a process can accept each message that passes. Returns all faults, and
-- the message with the version of its template.
CREATE FUNCTION sql_send_check(tenant uuid, domains_of_role text[], message jsonb, now timestamptz,
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
        'attachments', 'tags', 'metadata', 'template', 'stream', 'scheduled_at', 'expires_at', 'on_uncertain']);
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

-- Returns the sender that the calling role is, or is a member of. Raises an error if there is none, or several.
CREATE FUNCTION sql_send_sender() RETURNS sql_senders
    LANGUAGE plpgsql STABLE AS $body$
DECLARE
    -- A function with the rights of its owner cannot see its caller in current_user. SET ROLE is checked by the server.
    caller name := coalesce(nullif(current_setting('role', true), 'none')::name, session_user);
    sender sql_senders;
    matches bigint;
BEGIN
    SELECT s.* INTO sender FROM sql_senders s WHERE s.role = caller;
    IF FOUND THEN
        RETURN sender;
    END IF;
    SELECT count(*) INTO matches FROM sql_senders s JOIN pg_roles r ON r.rolname = s.role
    WHERE pg_has_role(caller, r.oid, 'USAGE');
    IF matches = 1 THEN
        SELECT s.* INTO sender FROM sql_senders s JOIN pg_roles r ON r.rolname = s.role
        WHERE pg_has_role(caller, r.oid, 'USAGE');
        RETURN sender;
    ELSIF matches = 0 THEN
        RAISE insufficient_privilege USING MESSAGE = format('the role "%s" may not send messages', caller),
            HINT = format('Run `postrider sql-grant %s`.', caller);
    END IF;
    RAISE insufficient_privilege USING
        MESSAGE = format('the role "%s" is a member of several roles that may send messages', caller),
        HINT = 'Choose one of them with SET ROLE, or run `postrider sql-grant` for this role.';
END
$body$;

-- What postrider.send does. Returns the id of the message.
CREATE FUNCTION sql_send(message jsonb, key text) RETURNS text
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    sender sql_senders := sql_send_sender();
    called_at timestamptz := clock_timestamp();
    suspended timestamptz;
    checked record;
    digest bytea;
    stored record;
    -- No header can contain the separator, so no request of the API has this key.
    stored_key text := 'sql' || chr(31) || key;
    hex text;
    id uuid;
    inserted bigint;
BEGIN
    SELECT t.suspended_at INTO suspended FROM tenants t WHERE t.id = sender.tenant_id;
    IF suspended IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = 'the tenant is suspended';
    END IF;
    IF message IS NULL OR jsonb_typeof(message) <> 'object' THEN
        RAISE EXCEPTION 'the message must be a JSON object' USING ERRCODE = 'PR422',
            DETAIL = sql_send_fault('', 'invalid_type', 'expected an object')::text;
    END IF;
    IF key IS NOT NULL AND (length(key) NOT BETWEEN 1 AND 256 OR key ~ '[\u0001-\u001f\u007f-\u009f]') THEN
        RAISE EXCEPTION 'the idempotency key is not valid' USING ERRCODE = 'PR422',
            DETAIL = sql_send_fault('/idempotency_key', 'too_long', 'must have 1–256 characters without control characters')::text;
    END IF;
    IF octet_length(message::text) > 2097152 THEN
        RAISE EXCEPTION 'the message is too large' USING ERRCODE = 'PR422',
            DETAIL = sql_send_fault('', 'too_large', 'may have at most 2 MiB; upload files with `PUT /v1/blobs/{sha256}`')::text;
    END IF;
    -- A field that is null counts as absent; variables of a template may be null.
    message := jsonb_strip_nulls(message - 'template')
        || CASE WHEN coalesce(message -> 'template', 'null') <> 'null'
                THEN jsonb_build_object('template', message -> 'template') ELSE '{}' END;

    IF key IS NOT NULL THEN
        digest := sha256(convert_to(message::text, 'UTF8'));
        SELECT k.fingerprint, k.message_ids[1] AS message_id INTO stored FROM idempotency_keys k
        WHERE k.tenant_id = sender.tenant_id AND k.key = stored_key;
        IF FOUND THEN
            RETURN sql_send_replay(stored.fingerprint, digest, stored.message_id);
        END IF;
    END IF;

    checked := sql_send_check(sender.tenant_id, sender.sender_domains, message, called_at);
    IF checked.faults <> '[]' THEN
        RAISE EXCEPTION 'the message is not valid: % %', checked.faults -> 0 ->> 'pointer', checked.faults -> 0 ->> 'message'
            USING ERRCODE = 'PR422', DETAIL = checked.faults::text,
                  HINT = 'DETAIL lists every fault with a JSON pointer into the message.';
    END IF;

    -- A UUIDv7 with the time of the call.
    hex := replace(gen_random_uuid()::text, '-', '');
    id := (lpad(to_hex(floor(extract(epoch FROM called_at) * 1000)::bigint), 12, '0') || '7' || substr(hex, 14))::uuid;
    IF key IS NOT NULL THEN
        -- Waits for a concurrent transaction that uses the same key.
        INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at, request_digest)
        VALUES (sender.tenant_id, stored_key, digest, ARRAY[id], called_at, digest)
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        IF inserted = 0 THEN
            SELECT k.fingerprint, k.message_ids[1] AS message_id INTO stored FROM idempotency_keys k
            WHERE k.tenant_id = sender.tenant_id AND k.key = stored_key;
            IF NOT FOUND THEN
                RAISE serialization_failure USING MESSAGE = 'a concurrent transaction used the idempotency key; try again';
            END IF;
            RETURN sql_send_replay(stored.fingerprint, digest, stored.message_id);
        END IF;
    END IF;
    -- Keeps uploaded files until the message refers to them.
    INSERT INTO blob_references (tenant_id, sha256, content_id)
    SELECT DISTINCT sender.tenant_id, decode(a ->> 'sha256', 'hex'), id
    FROM jsonb_array_elements(coalesce(checked.payload -> 'attachments', '[]')) AS a WHERE a ? 'sha256';
    INSERT INTO sql_inbox (tenant_id, id, payload, size, role, stream, created_at)
    VALUES (sender.tenant_id, id, checked.payload, octet_length(checked.payload::text), sender.role,
            coalesce(checked.payload ->> 'stream', 'transactional'), called_at);
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        -- A committed message must survive a crash of the server and, if there is a synchronous standby, a failover.
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN 'msg_' || replace(id::text, '-', '');
END
$body$;

-- Returns the id of the message that was sent with a key before, if the message is the same.
CREATE FUNCTION sql_send_replay(first bytea, digest bytea, message_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF first <> digest THEN
        RAISE EXCEPTION 'the idempotency key was used with a different message' USING ERRCODE = 'PR409',
            DETAIL = sql_send_fault('/idempotency_key', 'idempotency_key_reused',
                                    'was used with a different message; use another key for another message')::text;
    END IF;
    RETURN 'msg_' || replace(message_id::text, '-', '');
END
$body$;

-- Creates postrider.send, which runs with the rights of its owner, the role of Postrider. Needs the right to create the schema
-- `postrider`, or to create functions in it, so the migration goes on without it; `postrider sql-grant` tries again.
CREATE FUNCTION create_sql_send() RETURNS void
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    home name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = to_regclass('sql_inbox'));
BEGIN
    IF to_regnamespace('postrider') IS NULL THEN
        CREATE SCHEMA postrider;
    END IF;
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION postrider.send(payload jsonb, idempotency_key text DEFAULT NULL) RETURNS text
            LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
            -- The patterns that check a message have backslashes.
            SET standard_conforming_strings = on
            AS 'SELECT %1$I.sql_send($1, $2)'
        $sql$, home);
    -- Functions can be called by everybody by default.
    REVOKE ALL ON FUNCTION postrider.send(jsonb, text) FROM PUBLIC;
    COMMENT ON FUNCTION postrider.send(jsonb, text) IS
        'Sends a message when the transaction commits. Returns its id. Raises PR422 (not valid; DETAIL lists the faults) or PR409 (the idempotency key was used with a different message).';
END
$body$;

-- Lets a role call postrider.send. Its row in sql_senders says what it may send.
CREATE FUNCTION grant_sql_send(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    PERFORM create_sql_send();
    EXECUTE format('GRANT USAGE ON SCHEMA postrider TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION postrider.send(jsonb, text) TO %I', role);
END
$body$;

-- Takes the right to call postrider.send from a role. It may have the right to use the schema for another reason.
CREATE FUNCTION revoke_sql_send(role name) RETURNS void
    LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    IF to_regprocedure('postrider.send(jsonb, text)') IS NOT NULL AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        EXECUTE format('REVOKE EXECUTE ON FUNCTION postrider.send(jsonb, text) FROM %I', role);
    END IF;
END
$body$;

-- The functions are called through postrider.send only.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace AND (p.proname ~ '^(sql_send|(create|grant|revoke)_sql_send$)') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
    PERFORM create_sql_send();
EXCEPTION WHEN insufficient_privilege THEN
    -- The REVOKEs are undone, too, which is harmless: only postrider.send has the rights of its owner.
    RAISE NOTICE 'the schema postrider cannot be created; applications cannot send from SQL until it is (docs/enqueue-in-sql.md)';
END $$;

-- As before, but creates the partition in the schema of its parent. A role named postrider has the schema of postrider.send first in
-- its default search_path ("$user", public).
CREATE OR REPLACE FUNCTION ensure_partition(parent text, moment timestamptz) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    week timestamptz := date_trunc('week', moment, 'UTC');
    child text := format('%s_%s', parent, to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD'));
    home name := (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = to_regclass(parent));
    bounds text;
BEGIN
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- If two processes call this function at the same time, the second waits here and then finds the partition.
    PERFORM pg_advisory_xact_lock(hashtext('postrider.ensure_partition'));
    IF to_regclass(child) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF parent = 'events' THEN
        bounds := format('FROM (%L) TO (%L)', week, week + interval '7 days');
    ELSE
        bounds := format('FROM (%L) TO (%L)', uuid_floor(week), uuid_floor(week + interval '7 days'));
    END IF;
    EXECUTE format('CREATE TABLE %I.%I (LIKE %I.%I INCLUDING ALL)', home, child, home, parent);
    EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %I.%I FOR VALUES %s', home, parent, home, child, bounds);
    RETURN true;
EXCEPTION
    -- The default partition already contains rows of the week, or another process has created the partition: a relation that
    -- was looked up before waiting for an advisory lock stays cached, so the second check above may miss it.
    WHEN check_violation OR duplicate_table OR duplicate_object OR unique_violation THEN
        RETURN false;
END $$;
