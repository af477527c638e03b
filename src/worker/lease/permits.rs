//! The permits of this worker: its share of the connection and concurrency limits that all replicas share.

use std::collections::{HashMap, HashSet};

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Leases;
use super::in_flight::LaneInFlight;
use crate::db::DbError;
use crate::db::lanes;
use crate::db::lanes::limits::StreamKey;

/// Minimum time between two returns of unused permits.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);

/// The permits of one worker.
#[derive(Debug, Default)]
pub(crate) struct Permits(Mutex<Granted>);

#[derive(Debug, Default)]
struct Granted {
    /// Connections, by lane.
    lanes: HashMap<i64, usize>,
    /// Messages in flight, by stream.
    streams: HashMap<StreamKey, usize>,
    last_return: Option<Instant>,
    /// Whether the database may have granted more permits than are known here, because the response to a claim was
    /// lost.
    is_uncertain: bool,
}

impl Permits {
    /// Returns how many connections may be open for a lane, or `None` for a lane without a limit.
    pub(crate) fn connections(&self, lane: i64) -> Option<usize> {
        self.granted(|granted| granted.lanes.get(&lane).copied())
    }

    /// Records the permits granted to a claim.
    pub(crate) fn add(&self, lanes: &HashMap<i64, usize>, streams: HashMap<StreamKey, usize>) {
        self.granted(|granted| {
            granted.lanes.extend(lanes);
            granted.streams.extend(streams);
        });
    }

    /// Notes that the database may have granted more permits than are known here.
    pub(crate) fn mark_uncertain(&self) {
        self.granted(|granted| granted.is_uncertain = true);
    }

    fn take_uncertain(&self) -> bool {
        self.granted(|granted| std::mem::take(&mut granted.is_uncertain))
    }

    /// Records permits that were granted without this worker's knowledge, so that they are returned when unused.
    fn add_unknown(&self, (lanes, streams): lanes::limits::HeldPermits) {
        self.granted(|granted| {
            for (lane, count) in lanes {
                granted.lanes.entry(lane).or_insert(count);
            }
            for (key, count) in streams {
                granted.streams.entry(key).or_insert(count);
            }
        });
    }

    /// Returns the permits of which fewer are in use than were granted. An idle connection uses its permit.
    fn unused(&self, in_flight: &HashMap<i64, LaneInFlight>, open: impl Fn(i64) -> usize) -> Unused {
        let lanes = |granted: &Granted| {
            let all = granted.lanes.iter().map(|(lane, count)| {
                let used = in_flight.get(lane).map_or(0, LaneInFlight::message_count).max(open(*lane));
                (*lane, used, *count)
            });
            all.filter(|(_, used, count)| used < count).map(|(lane, used, _)| (lane, used)).collect()
        };
        let streams = |granted: &Granted| {
            let used = |key: &StreamKey| stream_message_count(in_flight, key);
            let all = granted.streams.iter().map(|(key, count)| (key.clone(), used(key), *count));
            all.filter(|(_, used, count)| used < count).map(|(key, used, _)| (key, used)).collect()
        };
        self.granted(|granted| Unused { lanes: lanes(granted), streams: streams(granted) })
    }

    fn remove(&self, unused: &Unused) {
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

    fn is_return_due(&self) -> bool {
        self.granted(|granted| {
            let is_due = granted.last_return.is_none_or(|last| last.elapsed() >= RETURN_INTERVAL);
            if is_due {
                granted.last_return = Some(Instant::now());
            }
            is_due && !(granted.lanes.is_empty() && granted.streams.is_empty())
        })
    }

    fn granted<T>(&self, access: impl FnOnce(&mut Granted) -> T) -> T {
        access(&mut self.0.lock())
    }
}

/// Permits to return, with the number that stays in use.
struct Unused {
    lanes: Vec<(i64, usize)>,
    streams: Vec<(StreamKey, usize)>,
}

/// Returns how many messages of a stream are in flight. A message with recipients in several lanes counts once.
pub(crate) fn stream_message_count(in_flight: &HashMap<i64, LaneInFlight>, key: &StreamKey) -> usize {
    let is_of_stream = |in_lane: &&LaneInFlight| {
        in_lane.lane.as_ref().is_some_and(|lane| lane.tenant_id == key.0 && lane.stream == key.1)
    };
    let messages: HashSet<_> = in_flight.values().filter(is_of_stream).flat_map(LaneInFlight::messages).collect();
    messages.len()
}

impl Leases {
    /// Returns unused permits to the database, at most once per interval. Runs between claims, so that no claim relies
    /// on them at the same time.
    pub(crate) async fn return_permits(&self, open_connections: impl Fn(i64) -> usize) -> Result<(), DbError> {
        if self.permits.take_uncertain()
            && let Some(worker) = self.worker()
        {
            match lanes::limits::held_permits(&self.db, worker).await {
                Ok(held) => self.permits.add_unknown(held),
                Err(error) => {
                    self.permits.mark_uncertain();
                    return Err(error);
                }
            }
        }
        if !self.permits.is_return_due() {
            return Ok(());
        }
        let Some(worker) = self.worker() else { return Ok(()) };
        let unused = self.permits.unused(&self.in_flight.by_lane(), open_connections);
        if unused.lanes.is_empty() && unused.streams.is_empty() {
            return Ok(());
        }
        lanes::limits::release(&self.db, worker, &unused.lanes, &unused.streams).await?;
        self.permits.remove(&unused);
        Ok(())
    }
}
