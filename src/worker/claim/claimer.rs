//! Takes what is due, as much as there is room for, and starts a task for each mail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::allocation::{self, Capacity};
use crate::db::DbError;
use crate::db::lanes::{self, Raise, ReadyLane};
use crate::db::limits::{self, StreamKey, Wish};
use crate::db::queue::{self, Claimed, Room};
use crate::worker::Parts;
use crate::worker::deliver::attempt;
use crate::worker::deliver::loaded_message::{self, Loaded};
use crate::worker::lease::crash_quarantine;
use crate::worker::lease::in_flight::LaneInFlight;
use crate::worker::lease::permits::{self, in_stream};
use crate::worker::lease::release;
use crate::worker::maintenance::ready_watermark::{self, Claim, ReadyWatermarks};

/// What a claim brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    /// Some rows: ask again at once.
    Rows,
    /// Nothing is due for which there is room.
    Nothing,
    /// Nothing is due at all.
    All,
    /// Every hand is full.
    NoRoom,
}

/// Lanes of a stream looked at in one claim.
const LANES: i64 = 512;
/// How long a lane is left to the workers that have all of its connections.
const LEAVE: Duration = Duration::from_secs(1);

/// What the claimer remembers from one claim to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    bounds: ReadyWatermarks,
    /// Lanes of which others have all that is allowed, and since when.
    full: HashMap<i64, Instant>,
    /// When lanes that ran out of turns are open again.
    opens_at: BTreeSet<DateTime<Utc>>,
    /// Limited lanes that had less than their limits allowed.
    emptied: Vec<i64>,
    /// Whether others may have what they did not use.
    is_unused: bool,
}

impl Memory {
    /// How long it takes until a throttled lane is worth another look.
    pub(crate) fn until_open(&self, now: DateTime<Utc>) -> Option<Duration> {
        self.opens_at.first().map(|at| (*at - now).to_std().unwrap_or_default())
    }

    /// Forgets what is open by now.
    fn look(&mut self, now: DateTime<Utc>) {
        self.opens_at.retain(|at| *at > now);
    }

    fn skipped(&mut self) -> Vec<i64> {
        self.full.retain(|_, since| since.elapsed() < LEAVE);
        self.full.keys().copied().collect()
    }
}

/// Times that what was left over is divided anew: each time at least the most urgent of those that left it are out.
const ROUNDS: usize = 4;

/// Claims once: where lanes had less than their room, others that got none for it come next.
pub(crate) async fn some(parts: &Arc<Parts>, memory: &mut Memory) -> Result<Took, DbError> {
    let Some(worker) = parts.identity.current() else {
        // Not to be claimed under: the next heartbeat confirms this id or brings another.
        return Ok(Took::Nothing);
    };
    permits::give_back(parts).await?;
    if parts.in_flight.free() == 0 {
        parts.gate.set(false);
        return Ok(Took::NoRoom);
    }
    let now = parts.clock.now();
    memory.look(now);
    let mut skip = [memory.skipped(), parts.lane_stats.left(now)].concat();
    let mut took = Took::Nothing;
    for n in 0..ROUNDS {
        let round = round(parts, memory, worker, &skip, now).await?;
        // Once only: what was skipped later had been asked before.
        if n == 0 {
            parts.gate.set(round.took_all);
        }
        if round.rows > 0 {
            took = Took::Rows;
        } else if n == 0 && round.took_all {
            took = Took::All;
        }
        if !round.is_loaded {
            return Ok(Took::Nothing);
        }
        if !round.is_anybody_left_out || round.had_less.is_empty() {
            break;
        }
        skip.extend(round.had_less);
    }
    Ok(if std::mem::take(&mut memory.is_unused) { Took::Rows } else { took })
}

/// What came of dividing the free hands once.
#[derive(Default)]
struct Round {
    /// Rows claimed.
    rows: usize,
    /// Whether the database gave what belongs to the rows.
    is_loaded: bool,
    /// Lanes that did not use all of their room.
    had_less: Vec<i64>,
    /// Whether lanes with something due got no room, and could use some.
    is_anybody_left_out: bool,
    /// Whether all lanes had less than their room, and no limits.
    took_all: bool,
}

/// Divides the free hands among the lanes with something due, but for those to `skip`, and claims.
async fn round(
    parts: &Arc<Parts>,
    memory: &mut Memory,
    worker: Uuid,
    skip: &[i64],
    now: DateTime<Utc>,
) -> Result<Round, DbError> {
    // Before the lanes: what failed and was let go of has closed its lane by then, and is not claimed for once more.
    let (in_hand, free) = (parts.in_flight.by_lane(), parts.in_flight.free());
    let ready = lanes::ready(&parts.db, now, LANES, skip).await?;
    let ready: Vec<Arc<ReadyLane>> = ready.into_iter().map(Arc::new).collect();
    let lanes = ready.iter().map(|lane| lane.id).chain(in_hand.keys().copied());
    let situation = Capacity {
        capacity: parts.settings.concurrency,
        free,
        connections: parts.settings.connections,
        recent: &parts.lane_stats.of(lanes, now),
        in_hand: &in_hand,
    };
    let rooms = allocation::allocate(&ready, &situation);
    if rooms.is_empty() {
        return Ok(Round { is_loaded: true, took_all: ready.is_empty(), ..Round::default() });
    }
    let taken = match claim(parts, memory, worker, &rooms, now).await {
        Ok(taken) => taken,
        Err(error) => {
            parts.suspect(&error);
            return Err(error);
        }
    };
    let of_lane = |lane: &ReadyLane| taken.by_lane.get(&lane.id).copied().unwrap_or(0);
    let had_less: Vec<i64> =
        rooms.iter().filter(|(lane, rows)| of_lane(lane) < *rows).map(|(lane, _)| lane.id).collect();
    let took_all = had_less.len() == ready.len() && !ready.iter().any(|lane| lane.is_limited());
    parts.gate.remember(&ready);
    let rows = taken.by_lane.values().sum();
    let others: Vec<Arc<ReadyLane>> =
        ready.into_iter().filter(|lane| !rooms.iter().any(|(with_room, _)| with_room.id == lane.id)).collect();
    let situation = Capacity { free: parts.in_flight.free(), ..situation };
    let is_anybody_left_out = !allocation::allocate(&others, &situation).is_empty();
    let due = bounds_due(memory, &rooms, &taken.by_lane, now);
    let new = crash_quarantine::set_aside(parts, taken.new);
    // At the same time: nobody waits for a bound to be raised.
    let (is_loaded, raised) = tokio::join!(Box::pin(load(parts, new)), ready_watermark::raise(parts, &due));
    memory.bounds.note(&raised, Instant::now());
    Ok(Round { rows, is_loaded, had_less, is_anybody_left_out, took_all })
}

/// What claims brought into our hands.
#[derive(Default)]
struct Taken {
    /// What no task has yet.
    new: Vec<Claimed>,
    /// How much of each lane was claimed.
    by_lane: HashMap<i64, usize>,
}

impl Taken {
    /// Puts into our hands what a claim has brought. At once: what is leased and not in hand counts as lost ([`crate::worker::lease::lost_claims`]).
    fn add(&mut self, parts: &Parts, claimed: Vec<Claimed>, lanes: &[Arc<ReadyLane>]) {
        for row in &claimed {
            *self.by_lane.entry(row.lane_id).or_default() += 1;
        }
        self.new.extend(parts.in_flight.insert(claimed, lanes));
    }
}

/// Claims from the lanes that have no limits, and then from those that have.
async fn claim(
    parts: &Parts,
    memory: &mut Memory,
    worker: Uuid,
    rooms: &[(Arc<ReadyLane>, usize)],
    now: DateTime<Utc>,
) -> Result<Taken, DbError> {
    let lanes: Vec<Arc<ReadyLane>> = rooms.iter().map(|(lane, _)| lane.clone()).collect();
    let (limited, free): (Vec<_>, Vec<_>) = rooms.iter().partition(|(lane, _)| lane.is_limited());
    let free: Vec<Room> = free.into_iter().map(room).collect();
    let mut taken = Taken::default();
    if !free.is_empty() {
        // With VERP each recipient goes alone.
        let is_one_by_one = parts.settings.returns.as_ref().is_some_and(|returns| returns.verp);
        let most = if is_one_by_one {
            0
        } else {
            allocation::usable(parts.settings.concurrency, parts.in_flight.free(), rooms)
        };
        taken.add(parts, queue::claim(&parts.db, worker, &free, most, now).await?, &lanes);
    }
    if limited.is_empty() {
        return Ok(taken);
    }
    let in_hand = parts.in_flight.by_lane();
    let wishes: Vec<Wish> = limited.into_iter().map(|room| wish(parts, &in_hand, room)).collect();
    let most = allocation::usable(parts.settings.concurrency, parts.in_flight.free(), rooms);
    match Box::pin(limits::claim(&parts.db, worker, &wishes, most, now)).await {
        Ok(granted) => {
            memory.opens_at.extend(granted.opens_at);
            memory.emptied = granted.emptied;
            memory.is_unused |= granted.is_unused;
            memory.full.extend(granted.full.iter().map(|lane| (*lane, Instant::now())));
            parts.permits.add(&granted.connections, granted.in_flight);
            taken.add(parts, granted.claimed, &lanes);
            Ok(taken)
        }
        // What the others gave must not be lost with it.
        Err(error) if !taken.by_lane.is_empty() => {
            tracing::warn!(%error, "could not claim from lanes that are limited; trying again");
            parts.suspect(&error);
            Ok(taken)
        }
        Err(error) => Err(error),
    }
}

fn room((lane, rows): &(Arc<ReadyLane>, usize)) -> Room {
    Room { lane: lane.id, rows: i32::try_from(*rows).unwrap_or(i32::MAX), from: lane.ready_at }
}

fn wish(parts: &Parts, in_hand: &HashMap<i64, LaneInFlight>, wanted: &(Arc<ReadyLane>, usize)) -> Wish {
    let lane = &wanted.0;
    let stream: StreamKey = (lane.tenant_id, lane.stream.clone());
    Wish {
        room: room(wanted),
        is_stream_limited: lane.is_stream_limited(),
        in_hand: in_hand.get(&lane.id).map_or(0, LaneInFlight::mails),
        open: parts.sender.open_connections(lane.id),
        stream_in_hand: in_stream(in_hand, &stream),
        stream,
    }
}

/// Whose bounds are to be raised after this claim.
fn bounds_due(
    memory: &mut Memory,
    rooms: &[(Arc<ReadyLane>, usize)],
    taken: &HashMap<i64, usize>,
    now: DateTime<Utc>,
) -> Vec<Raise> {
    let of_limited = std::mem::take(&mut memory.emptied);
    let claim = |(lane, room): &(Arc<ReadyLane>, usize)| {
        let rows = taken.get(&lane.id).copied().unwrap_or(0);
        let had_less = if lane.is_limited() { of_limited.contains(&lane.id) } else { rows < *room };
        Claim { lane: lane.id, gave: rows > 0, had_less, is_passed: lane.is_passed_by() }
    };
    memory.bounds.due(rooms.iter().map(claim), now, Instant::now())
}

/// Loads what was claimed and starts a task for each mail. What cannot be loaded is given back, or held where it never
/// can be. Answers whether the database did its part.
async fn load(parts: &Arc<Parts>, claimed: Vec<Claimed>) -> bool {
    if claimed.is_empty() {
        return true;
    }
    match loaded_message::load(parts, &claimed).await {
        Ok(loaded) => {
            start(parts, loaded).await;
            true
        }
        Err(error) if error.is_passing() => {
            tracing::warn!(%error, rows = claimed.len(), "could not load what was claimed; giving it back");
            let parts = parts.clone();
            parts.tasks.clone().spawn(async move {
                tokio::time::sleep(release::PAUSE).await;
                release::release(&parts.db, &parts.in_flight, claimed).await;
            });
            false
        }
        Err(_) => {
            load_one_by_one(parts, claimed).await;
            true
        }
    }
}

/// One message that cannot be read must not keep its neighbours.
async fn load_one_by_one(parts: &Arc<Parts>, claimed: Vec<Claimed>) {
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in claimed {
        by_message.entry(row.message_id).or_default().push(row);
    }
    for claimed in by_message.into_values() {
        if let Some(loaded) = loaded_message::load_one(parts, claimed).await {
            start(parts, loaded).await;
        }
    }
}

/// Starts a task for each mail.
pub(crate) async fn start(parts: &Arc<Parts>, loaded: Loaded) {
    let Loaded { mails, orphans } = apart(parts, loaded).await;
    for mail in mails {
        parts.tasks.spawn(attempt::run(parts.clone(), mail));
    }
    if !orphans.is_empty() {
        let parts = parts.clone();
        parts.tasks.clone().spawn(async move {
            release::hold(&parts.db, &parts.in_flight, orphans, release::NOT_STORED).await;
        });
    }
}

/// Puts recipients whose domain has got a lane of its own into that, where they wait for their turn.
async fn apart(parts: &Parts, mut loaded: Loaded) -> Loaded {
    let is_shared = |row: &Claimed| parts.in_flight.lane(row.lane_id).is_some_and(|lane| lane.is_shared());
    if !loaded.mails.iter().flat_map(|mail| &mail.claimed).any(is_shared) {
        return loaded;
    }
    let splits = match parts.splits.current().await {
        Ok(splits) if !splits.is_empty() => splits,
        Ok(_) => return loaded,
        Err(error) => {
            tracing::debug!(%error, "could not ask which domains have lanes of their own");
            return loaded;
        }
    };
    let mut moves = Vec::new();
    for mail in &mut loaded.mails {
        let own_lane = |row: &Claimed| {
            let lane = parts.in_flight.lane(row.lane_id).filter(|lane| lane.is_shared())?;
            let domain = mail.message.address(row.recipient_id).ok()?.domain().to_owned();
            splits.get(&(lane.tenant_id, lane.stream.clone(), lane.route.clone(), domain)).copied()
        };
        let (apart, together): (Vec<_>, Vec<_>) = std::mem::take(&mut mail.claimed)
            .into_iter()
            .map(|row| (own_lane(&row), row))
            .partition(|(own, _)| own.is_some());
        mail.claimed = together.into_iter().map(|(_, row)| row).collect();
        moves.extend(apart.into_iter().filter_map(|(own, row)| Some((row, own?))));
    }
    loaded.mails.retain(|mail| !mail.claimed.is_empty());
    if !moves.is_empty() {
        release::into_lanes(&parts.db, &parts.in_flight, moves).await;
    }
    loaded
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn each_lane_that_opens_is_waited_for_however_often_it_is_looked_before() {
        let at = |millis| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis);
        let mut memory = Memory::default();
        memory.opens_at.extend([at(500), at(200)]);
        for (now, wait) in [(0, Some(200)), (100, Some(100)), (200, Some(300)), (500, None)] {
            memory.look(at(now));
            assert_eq!(memory.until_open(at(now)), wait.map(Duration::from_millis));
        }
    }
}
