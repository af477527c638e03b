-- Pauses of lanes and streams that have ended. A retry window does not run while its lane or its stream is paused: the time of
-- every pause since a recipient's first due time is added to its window. A pause that lasts is in lanes.paused_at or
-- streams.paused_at; resume moves it here. Rows older than 90 days are deleted by the next resume.
CREATE TABLE pauses (
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- The stream that was paused, or the stream of the lane.
    stream text NOT NULL,
    -- The lane that was paused (lanes.id); null where the whole stream was.
    lane_id bigint,
    paused_at timestamptz NOT NULL,
    resumed_at timestamptz NOT NULL,
    CONSTRAINT pauses_end_after_start CHECK (resumed_at >= paused_at)
);

-- Serves workers, which load all pauses of the last 90 days, and the deletion of older ones.
CREATE INDEX pauses_resumed_at ON pauses (resumed_at);
