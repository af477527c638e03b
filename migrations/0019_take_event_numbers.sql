-- Takes the next n event numbers of a tenant and answers the one before the first; null without a counter. Holds the
-- counter's row until the transaction ends.
--
-- A plain UPDATE reads every version of the row that anybody's snapshot may still see: with a transaction held open
-- elsewhere it took 1 ms after 20,000 events' transactions, and more with each. The newest version lies last in the
-- index, so that reading from its end finds it at once (0.07 ms, however many there are). Locked first and read again
-- after: whoever held the row may have made a newer one.
CREATE FUNCTION take_event_numbers(tenant uuid, n bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    -- The table looks small, and the plan is always the same.
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    base bigint;
BEGIN
    -- As a range: for an equality the planner would drop the order.
    PERFORM FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
    ORDER BY c.tenant_id DESC LIMIT 1 FOR UPDATE;
    UPDATE event_counters SET last_seq = last_seq + n
    WHERE ctid = (SELECT c.ctid FROM event_counters c WHERE c.tenant_id >= tenant AND c.tenant_id <= tenant
                  ORDER BY c.tenant_id DESC LIMIT 1)
    RETURNING last_seq - n INTO base;
    RETURN base;
END
$$;
