-- The metrics of the whole service, such as the length of the queue: one process computes them, and all export them.

-- At most one row. It changes every 15 seconds, so it is small and updated in place.
CREATE TABLE service_metrics (
    -- Always true, so that there is one row.
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- When the figures were computed, by the database's clock.
    computed_at timestamptz NOT NULL,
    -- Seconds that this took. The next computation starts after 15 seconds, or after 20 times as long if that is more.
    took double precision NOT NULL CHECK (took >= 0),
    -- The figures (postrider::db::service_metrics::Figures). A version ignores figures that it does not know.
    figures jsonb NOT NULL
) WITH (fillfactor = 10);
