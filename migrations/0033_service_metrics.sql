-- The metrics of the whole service, such as the length of the queue: one process computes them, and all export them.

-- At most one row. It changes every 15 seconds, so it is small and updated in place.
CREATE TABLE service_metrics (
    -- Always true, so that there is one row.
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- When the next computation may start. A process that starts one sets this time to the computation's time limit, so that no
    -- other process starts one meanwhile; at its end, also if it failed, to 15 seconds later, or to 20 times as long as it took if
    -- that is more.
    next_at timestamptz NOT NULL,
    -- When the figures were computed, by the database's clock; null: not yet.
    computed_at timestamptz,
    -- The figures (postrider::db::service_metrics::Figures); null: not computed yet. A version ignores figures that it does not
    -- know.
    figures jsonb,
    CHECK ((computed_at IS NULL) = (figures IS NULL))
) WITH (fillfactor = 10);
