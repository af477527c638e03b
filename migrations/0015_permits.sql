-- How many connections of a limited lane each worker may use: what all have together never exceeds the limit. They go
-- with the worker.
CREATE TABLE permits (
    tenant_id uuid NOT NULL,
    lane_id bigint NOT NULL,
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    count integer NOT NULL CHECK (count > 0),
    PRIMARY KEY (lane_id, worker_id)
) WITH (fillfactor = 50);

-- The same for a stream's limit: mails in flight.
CREATE TABLE stream_permits (
    tenant_id uuid NOT NULL,
    stream text NOT NULL,
    worker_id uuid NOT NULL REFERENCES workers ON DELETE CASCADE,
    count integer NOT NULL CHECK (count > 0),
    PRIMARY KEY (tenant_id, stream, worker_id)
) WITH (fillfactor = 50);

-- When a worker is taken off the list.
CREATE INDEX permits_worker ON permits (worker_id);
CREATE INDEX stream_permits_worker ON stream_permits (worker_id);
