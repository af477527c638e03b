//! What this worker may use of limits that all replicas share, and what it gives back of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::in_flight::LaneInFlight;
use crate::db::DbError;
use crate::db::limits::{self, StreamKey};
use crate::db::queue::Claimed;
use crate::smtp::{Limits, SendGuard, Terms};
use crate::worker::Parts;
use crate::worker::claim::allocation::URGENT;

/// How often it is looked whether some can be given back.
const EVERY: Duration = Duration::from_secs(1);

/// What was granted.
#[derive(Debug, Default)]
pub(crate) struct Permits(Mutex<Granted>);

#[derive(Debug, Default)]
struct Granted {
    /// Connections, by lane.
    lanes: HashMap<i64, usize>,
    /// Mails in flight, by stream.
    streams: HashMap<StreamKey, usize>,
    looked: Option<Instant>,
    /// Whether more may have been granted than we know of: the answer of a claim was lost.
    is_in_doubt: bool,
}

impl Permits {
    /// Connections that may be open for a lane; none where it is not limited.
    pub(crate) fn connections(&self, lane: i64) -> Option<usize> {
        self.granted(|granted| granted.lanes.get(&lane).copied())
    }

    /// Takes note of a claim.
    pub(crate) fn add(&self, lanes: &HashMap<i64, usize>, streams: HashMap<StreamKey, usize>) {
        self.granted(|granted| {
            granted.lanes.extend(lanes);
            granted.streams.extend(streams);
        });
    }

    /// More may have been granted than we know of.
    pub(crate) fn doubt(&self) {
        self.granted(|granted| granted.is_in_doubt = true);
    }

    fn take_doubt(&self) -> bool {
        self.granted(|granted| std::mem::take(&mut granted.is_in_doubt))
    }

    /// Takes note of what was granted without our knowledge, so that it is given back where it is not used.
    fn learn(&self, (lanes, streams): limits::Held) {
        self.granted(|granted| {
            for (lane, count) in lanes {
                granted.lanes.entry(lane).or_insert(count);
            }
            for (key, count) in streams {
                granted.streams.entry(key).or_insert(count);
            }
        });
    }

    /// What of this is still in use, where that is less than was granted. A connection that is idle is still open.
    fn unused(&self, in_hand: &HashMap<i64, LaneInFlight>, open: impl Fn(i64) -> usize) -> Unused {
        let lanes = |granted: &Granted| {
            let kept = granted.lanes.iter().map(|(lane, count)| {
                let used = in_hand.get(lane).map_or(0, LaneInFlight::mails).max(open(*lane));
                (*lane, used, *count)
            });
            kept.filter(|(_, used, count)| used < count).map(|(lane, used, _)| (lane, used)).collect()
        };
        let streams = |granted: &Granted| {
            let used = |key: &StreamKey| in_stream(in_hand, key);
            let kept = granted.streams.iter().map(|(key, count)| (key.clone(), used(key), *count));
            kept.filter(|(_, used, count)| used < count).map(|(key, used, _)| (key, used)).collect()
        };
        self.granted(|granted| Unused { lanes: lanes(granted), streams: streams(granted) })
    }

    fn forget(&self, unused: &Unused) {
        self.granted(|granted| {
            for (lane, used) in &unused.lanes {
                granted.lanes.insert(*lane, *used);
            }
            for (key, used) in &unused.streams {
                granted.streams.insert(key.clone(), *used);
            }
            granted.lanes.retain(|_, count| *count > 0);
            granted.streams.retain(|_, count| *count > 0);
        });
    }

    fn is_time(&self) -> bool {
        self.granted(|granted| {
            let is_time = granted.looked.is_none_or(|looked| looked.elapsed() >= EVERY);
            if is_time {
                granted.looked = Some(Instant::now());
            }
            is_time && !(granted.lanes.is_empty() && granted.streams.is_empty())
        })
    }

    fn granted<T>(&self, look: impl FnOnce(&mut Granted) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Unused {
    lanes: Vec<(i64, usize)>,
    streams: Vec<(StreamKey, usize)>,
}

/// Mails of a stream in hand.
pub(crate) fn in_stream(in_hand: &HashMap<i64, LaneInFlight>, key: &StreamKey) -> usize {
    let of_stream = in_hand
        .values()
        .filter(|in_lane| in_lane.lane.as_ref().is_some_and(|lane| lane.tenant_id == key.0 && lane.stream == key.1));
    // A mail with recipients in several lanes is one.
    let mails: HashSet<_> = of_stream.flat_map(LaneInFlight::messages).collect();
    mails.len()
}

impl Parts {
    /// On which terms recipients of one lane are sent to.
    pub(crate) fn terms<'a>(&self, claimed: &[Claimed], watch: &'a dyn SendGuard) -> Terms<'a> {
        let Some(lane) = claimed.first().and_then(|row| self.in_flight.lane(row.lane_id)) else {
            return Terms { urgent: false, limits: Limits::default(), watch };
        };
        let connections = lane.connections.and_then(|_| self.permits.connections(lane.id));
        let mails_per_connection = lane.mails_per_connection.and_then(|mails| u32::try_from(mails).ok());
        let has_own = connections.is_some() || mails_per_connection.is_some();
        let limits = Limits { lane: has_own.then_some(lane.id), connections, mails_per_connection };
        Terms { urgent: lane.priority <= URGENT, limits, watch }
    }
}

/// Gives back what is not used, from time to time. Called between claims, so that no claim counts on it meanwhile.
pub(crate) async fn give_back(parts: &Arc<Parts>) -> Result<(), DbError> {
    if parts.permits.take_doubt()
        && let Some(worker) = parts.identity.current()
    {
        match limits::held(&parts.db, worker).await {
            Ok(held) => parts.permits.learn(held),
            Err(error) => {
                parts.permits.doubt();
                return Err(error);
            }
        }
    }
    if !parts.permits.is_time() {
        return Ok(());
    }
    let Some(worker) = parts.identity.current() else { return Ok(()) };
    let in_hand = parts.in_flight.by_lane();
    let unused = parts.permits.unused(&in_hand, |lane| parts.sender.open_connections(lane));
    if unused.lanes.is_empty() && unused.streams.is_empty() {
        return Ok(());
    }
    limits::give_back(&parts.db, worker, &unused.lanes, &unused.streams).await?;
    parts.permits.forget(&unused);
    Ok(())
}
