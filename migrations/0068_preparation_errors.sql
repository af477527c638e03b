-- Why a recipient could not be made ready for sending, for a reason that is ours: its domain's DKIM key cannot be opened, or
-- public_url is not set. No attempt is counted; the recipient is looked at again every few minutes.
ALTER TABLE queue
    -- The error in words, with the domain and the configuration key; null where the last preparation succeeded or none was tried.
    ADD preparation_error text,
    -- When the first of these failures in a row was; null with preparation_error.
    ADD preparation_failed_at timestamptz;

-- Serves the count of such recipients in GET /v1/lanes, and POST /v1/lanes/{id}/reset, which makes them due at once.
CREATE INDEX queue_preparation_error ON queue (lane_id, preparation_failed_at)
    WHERE lease IS NULL AND preparation_error IS NOT NULL;
