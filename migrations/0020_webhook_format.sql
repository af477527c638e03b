-- The form of the bodies and headers of webhook deliveries.
ALTER TABLE webhook_endpoints
    -- postrider: an event as GET /v1/events returns it. resend: the payload of a webhook of Resend, and svix-* headers in
    -- addition to webhook-*.
    ADD COLUMN format text NOT NULL DEFAULT 'postrider' CHECK (format IN ('postrider', 'resend'));
