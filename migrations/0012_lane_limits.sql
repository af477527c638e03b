-- What may go through a lane, what was learned of its destination, and when it is open again.

-- relay, mx, or relay:NAME for a route of the configuration ([routes.NAME]).
ALTER TABLE lanes DROP CONSTRAINT lanes_route_check;
ALTER TABLE lanes ADD CONSTRAINT lanes_route_check CHECK (route ~ '^(mx|relay|relay:[A-Za-z0-9_-]{1,64})$');

ALTER TABLE lanes
    -- An operator's limits, over all replicas together; null: none of its own. Connections at one time, mails a second,
    -- mails a connection.
    ADD connections integer CHECK (connections BETWEEN 1 AND 10000),
    ADD rate double precision CHECK (rate > 0 AND rate <= 1e6),
    ADD mails_per_connection integer CHECK (mails_per_connection BETWEEN 1 AND 100000),
    -- Nothing of this lane starts before then: the rate's next turn, or the end of a block. Claims look at it.
    ADD open_at timestamptz NOT NULL DEFAULT '-infinity',
    -- The rate's own clock (virtual scheduling): all turns up to this moment were taken or have lapsed.
    ADD next_turn_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Learned from 421 and 4.7.x: mails a second now, and the rate at which the destination first complained, at which
    -- the limit is forgotten; when it was last lowered, when last raised since, and the reply that lowered it.
    ADD learned_rate double precision CHECK (learned_rate > 0),
    ADD learned_ceiling double precision CHECK (learned_ceiling > 0),
    ADD learned_at timestamptz,
    ADD raised_at timestamptz,
    ADD learned_reply text,
    -- The destination cannot be reached: since when, how many probes in a row failed, and what the last one heard. While
    -- blocked, open_at says when the next probe is.
    ADD blocked_since timestamptz,
    ADD block_failures smallint NOT NULL DEFAULT 0,
    ADD block_reply text,
    -- When a worker last reached a destination that had been blocked. For a while a worker that has not reached it since
    -- blocks it for nobody but itself: the fault may be in its own network.
    ADD unblocked_at timestamptz,
    ADD CONSTRAINT lanes_learned_whole CHECK (num_nulls(learned_rate, learned_ceiling, learned_at) IN (0, 3)),
    ADD CONSTRAINT lanes_block_whole CHECK ((blocked_since IS NULL) = (block_failures = 0));

-- A worker asks stream by stream which lanes have something due and are open. lanes_ready stays for workers of the
-- version before.
CREATE INDEX lanes_open ON lanes (tenant_id, stream, (greatest(ready_at, open_at))) WHERE paused_at IS NULL;

-- Domains that have a lane of their own on a route that else has one lane for all, for as long as there is a reason: asked
-- for every two seconds, whatever number of domains once had one.
CREATE INDEX lanes_split ON lanes (tenant_id, stream, route, domain)
    WHERE route <> 'mx' AND domain <> '*'
        AND num_nonnulls(connections, rate, mails_per_connection, learned_rate, paused_at, blocked_since) > 0;
