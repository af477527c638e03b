//! Recipients that were in hand when a worker died. Most are innocent neighbours of the one that killed it, so they are
//! tried again, a few at a time, each on record before it begins; one that was begun at a second crash is tried with no other
//! suspect beside it. So a third crash tells who it is, and nobody is held for having been near.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::release;
use crate::db::marks::{self, Mark};
use crate::db::queue::Claimed;
use crate::db::queue::Rescheduled;
use crate::db::workers::CRASHES_TO_HOLD;
use crate::domain::id::MessageId;
use crate::worker::Parts;
use crate::worker::deliver::attempt;
use crate::worker::deliver::loaded_message::{self, Loaded};

/// Messages that were at one crash and are tried at a time.
const TOGETHER: u32 = 8;
/// Of those, for one domain's own servers: where they are dead, each takes its time.
const OF_DOMAIN: usize = 2;
/// Messages in hand for each of these turns.
const DEPTH: usize = 4;
/// Those for whom there is no place come again so much later, as many at a time as there are places.
const PUT_OFF: TimeDelta = TimeDelta::seconds(1);

/// Who waits and whose turn it is.
#[derive(Debug)]
pub(crate) struct CrashQuarantine {
    /// Places for those in hand, waiting included: they must not take up the hands that other mail needs.
    places: Arc<Semaphore>,
    capacity: usize,
    /// First come, first served, so that nobody starves.
    turns: Semaphore,
    /// The same for those of one domain, by lane.
    domains: Mutex<HashMap<i64, Arc<Domain>>>,
}

#[derive(Debug)]
struct Domain {
    places: Arc<Semaphore>,
    turns: Semaphore,
}

/// A message's place, until dropped.
#[derive(Debug)]
struct Place {
    _of_all: OwnedSemaphorePermit,
    domain: Option<(Arc<Domain>, OwnedSemaphorePermit)>,
}

impl CrashQuarantine {
    /// For a worker with so many hands.
    pub(crate) fn new(in_flight: usize) -> Self {
        let capacity = (in_flight / 4).clamp(1, 64);
        Self {
            places: Arc::new(Semaphore::new(capacity)),
            capacity,
            turns: Semaphore::new(TOGETHER as usize),
            domains: Mutex::default(),
        }
    }

    /// A place for a message, if there is one; `domain` is the lane of one that goes straight to a domain's servers.
    fn place(&self, domain: Option<i64>) -> Option<Place> {
        let of_all = self.places.clone().try_acquire_owned().ok()?;
        let domain = match domain.map(|lane| self.domain(lane)) {
            Some(domain) => {
                let place = domain.places.clone().try_acquire_owned().ok()?;
                Some((domain, place))
            }
            None => None,
        };
        Some(Place { _of_all: of_all, domain })
    }

    fn domain(&self, lane: i64) -> Arc<Domain> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        domains.retain(|id, domain| *id == lane || Arc::strong_count(domain) > 1);
        let new = || Domain { places: Arc::new(Semaphore::new(OF_DOMAIN * DEPTH)), turns: Semaphore::new(OF_DOMAIN) };
        domains.entry(lane).or_insert_with(|| Arc::new(new())).clone()
    }
}

/// Starts a task for each message that is suspected, and answers the rest.
pub(crate) fn set_aside(parts: &Arc<Parts>, claimed: Vec<Claimed>) -> Vec<Claimed> {
    let (suspected, rest): (Vec<Claimed>, Vec<Claimed>) = claimed.into_iter().partition(|row| row.crashes > 0);
    let mut by_message = BTreeMap::<Uuid, Vec<Claimed>>::new();
    for row in suspected {
        by_message.entry(row.message_id).or_default().push(row);
    }
    let mut too_many = BTreeMap::<Option<i64>, Vec<Claimed>>::new();
    for rows in by_message.into_values() {
        let lane = rows.first().and_then(|row| parts.in_flight.lane(row.lane_id));
        let domain = lane.filter(|lane| lane.is_mx()).map(|lane| lane.id);
        match parts.quarantine.place(domain) {
            Some(place) => drop(parts.tasks.spawn(run(parts.clone(), rows, place))),
            None => too_many.entry(domain).or_default().extend(rows),
        }
    }
    for (domain, rows) in too_many {
        let places = if domain.is_some() { OF_DOMAIN * DEPTH } else { parts.quarantine.capacity };
        parts.tasks.spawn(put_off(parts.clone(), rows, places));
    }
    rest
}

async fn put_off(parts: Arc<Parts>, rows: Vec<Claimed>, places: usize) {
    let mut until = parts.clock.now();
    for some in rows.chunks(places.min(parts.quarantine.capacity)) {
        until += PUT_OFF;
        let to = Rescheduled { until: Some(until), problem: None };
        release::reschedule(&parts.db, &parts.in_flight, some.to_vec(), to).await;
    }
}

/// Delivers one message when its turn has come, from loading it to its outcome on record.
async fn run(parts: Arc<Parts>, mut claimed: Vec<Claimed>, place: Place) {
    let crashes = claimed.iter().map(|row| row.crashes).max().unwrap_or(0);
    let turns = if crashes + 1 >= CRASHES_TO_HOLD { TOGETHER } else { 1 };
    // Never closed: there is always a turn in the end, unless the worker stops before. The domain's first, so that nobody
    // has one of all and waits.
    let turn = async {
        let of_domain = match &place.domain {
            Some((domain, _)) => Some(domain.turns.acquire().await?),
            None => None,
        };
        Ok::<_, AcquireError>((of_domain, parts.quarantine.turns.acquire_many(turns).await?))
    };
    let turn = parts.closing.run_until_cancelled(turn).await;
    let Some(Ok(_turn)) = turn else { return release::release(&parts.db, &parts.in_flight, claimed).await };
    for row in &mut claimed {
        parts.in_flight.adopt_claim(row);
    }
    match marks::set(&parts.db, &claimed, Mark::Begun).await {
        Ok(true) => {}
        Ok(false) => return release::release(&parts.db, &parts.in_flight, claimed).await,
        Err(error) => {
            tracing::warn!(%error, "could not put on record that a suspected mail begins; giving it back");
            tokio::time::sleep(release::PAUSE).await;
            return release::release(&parts.db, &parts.in_flight, claimed).await;
        }
    }
    let keys = claimed.clone();
    if let Some(first) = keys.first() {
        tracing::info!(message_id = %MessageId(first.message_id), crashes, "trying a mail that was in hand at a crash");
    }
    if let Some(Loaded { mails, orphans }) = loaded_message::load_one(&parts, claimed).await {
        for mail in mails {
            attempt::run(parts.clone(), mail).await;
        }
        release::hold(&parts.db, &parts.in_flight, orphans, release::NOT_STORED).await;
    }
    // Until then it is still on record as begun, and would be blamed for what the next one does.
    parts.in_flight.gone(&keys).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_takes_few_places_and_gives_them_back() {
        let suspects = CrashQuarantine::new(256);
        let mut dead: Vec<Place> = std::iter::from_fn(|| suspects.place(Some(1))).collect();
        assert_eq!(dead.len(), OF_DOMAIN * DEPTH);
        assert!(suspects.place(Some(2)).is_some() && suspects.place(None).is_some());
        dead.pop();
        assert!(suspects.place(Some(1)).is_some());
        drop(dead);
        let all: Vec<Place> = std::iter::from_fn(|| suspects.place(None)).collect();
        assert_eq!(all.len(), 64, "none was lost");
        assert!(suspects.place(Some(1)).is_none());
        drop(all);
        suspects.domain(3);
        assert_eq!(suspects.domains.lock().unwrap().len(), 1, "what is not in use is forgotten");
    }
}
