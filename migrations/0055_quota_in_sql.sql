-- postrider.send refuses a message with more recipients than the tenant's quota of a whole day: it could never be accepted. A message
-- that only does not fit into the rest of the day waits, as before.

-- Returns the number of recipients of a valid message. Duplicate addresses count once; their domains are case-insensitive.
CREATE FUNCTION sql_send_recipients(message jsonb) RETURNS bigint
    LANGUAGE sql STABLE
    RETURN (
        SELECT count(DISTINCT split_part(a.address, '@', 1) || '@' || lower(split_part(a.address, '@', 2)))
        FROM unnest(ARRAY['to', 'cc', 'bcc']) AS field
        CROSS JOIN LATERAL jsonb_array_elements(
            CASE jsonb_typeof(message -> field) WHEN 'array' THEN message -> field
                                                ELSE jsonb_build_array(message -> field) END) AS mailbox
        CROSS JOIN LATERAL (SELECT sql_send_email(mailbox) AS address) a
        WHERE message ? field);

-- As before, with the quota.
CREATE OR REPLACE FUNCTION sql_send(message jsonb, key text) RETURNS text
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    sender sql_senders := sql_send_sender();
    called_at timestamptz := clock_timestamp();
    suspended timestamptz;
    -- The tenant's recipients per day; null: no quota.
    quota integer;
    needed bigint;
    checked record;
    digest bytea;
    stored record;
    -- No header can contain the separator, so no request of the API has this key.
    stored_key text := 'sql' || chr(31) || key;
    hex text;
    id uuid;
    inserted bigint;
BEGIN
    SELECT t.suspended_at, t.recipients_per_day INTO suspended, quota FROM tenants t WHERE t.id = sender.tenant_id;
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

    needed := CASE WHEN quota IS NOT NULL THEN sql_send_recipients(message) END;
    IF needed > quota THEN
        RAISE EXCEPTION 'the message has more recipients than the tenant''s quota of a day' USING ERRCODE = 'PR422',
            DETAIL = sql_send_fault('/to', 'daily_quota_exceeded', format(
                'the message has %s recipients, and the tenant may send to %s per day (UTC); use several messages, or raise the quota',
                needed, quota))::text;
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

-- The function is called through postrider.send only.
REVOKE ALL ON FUNCTION sql_send_recipients(jsonb) FROM PUBLIC;
