//! The measurement: a few messages one at a time while the service is idle, then the load, until all messages have
//! arrived and all outcomes are recorded. The messages of a bulk are created after the 202, so the queue may be empty
//! for a moment before the end.

mod cpu;
mod histogram;
mod load;
mod machine;
pub(super) mod report;

use std::net::SocketAddr;
use std::time::Duration;

use chrono::TimeDelta;

use super::BenchError;
use super::client::http::Connection;
use super::client::mail::Request;
use super::error::Doing as _;
use super::options::{Form, Options};
use super::progress::{self, Progress, Second};
use super::seen::NumberSet;
use super::setup::process::{Service, Sink};
use super::setup::stage::{IDLE_MESSAGES, Stage, is_idle};
use super::sink::Count;
use crate::clock::{Clock as _, SystemClock, Uptime};
use crate::db::bench::{Server, bulks_are_expanded, is_settled, open_transaction, server};
use crate::domain::id::MessageId;
use load::{Load, LoadResult};
use machine::Machine;
use report::Report;

/// Poll interval of the counts.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Pause between two messages while the service is idle.
const PAUSE: Duration = Duration::from_millis(30);
/// Time limit for the arrival of a message that is sent while the service is idle.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for recording the outcomes once all messages have arrived.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The resources used by all processes at one time.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub service: Option<Duration>,
    pub postgres: Option<Duration>,
    pub sink: Option<Duration>,
    pub generator: Option<Duration>,
    pub server: Server,
    pub count: Count,
}

/// The measured values from which the report is calculated.
#[derive(Debug)]
pub(super) struct Measured {
    pub idle: Vec<Duration>,
    /// Resident memory of the largest process of the service before the load, and its maximum, in MiB.
    pub memory: (Option<f64>, Option<f64>),
    pub before: Sample,
    pub after: Sample,
    pub load: LoadResult,
    pub seen: Option<NumberSet>,
    pub settled: bool,
    /// When the wait for the outcomes ended, since boot.
    pub ended: Duration,
    pub seconds: Vec<Second>,
    pub machine: Machine,
    pub backlog: u64,
}

pub(super) async fn measure(options: &Options, stage: &mut Stage) -> Result<Report, BenchError> {
    let first = server(&stage.db).await.doing("query the database")?;
    let own = options.database_url.is_none().then(|| stage.scratch.postgres());
    let machine = Machine::read(&first, own.as_deref());
    machine.warnings().iter().for_each(|warning| progress::step(&format!("note: {warning}")));
    let idle = idle(options, stage).await?;
    let held = if options.held_transaction {
        Some(open_transaction(&stage.db).await.doing("hold a transaction open")?)
    } else {
        None
    };
    let resting = memory(stage).map(|(_, now)| now);
    let since = MessageId::new(SystemClock.now() - TimeDelta::milliseconds(1));
    let before = Sample::take(stage).await?;
    progress::step("measuring");
    let address = |service: &Service| if options.submission { service.submission } else { Some(service.api) };
    let addresses: Vec<SocketAddr> = stage.services.iter().filter_map(address).collect();
    let mut load = Load::start(options, IDLE_MESSAGES, &addresses, &stage.keys)?;
    let (result, seconds) = until_arrived(options, stage, &mut load, &before.count).await?;
    if result.count == 0 {
        let why = result.first_error.unwrap_or_else(|| "the time was too short".to_owned());
        return BenchError::refused(format!("nothing was accepted: {why}"), None);
    }
    let settled = until_settled(options, stage, since).await?;
    let ended = Uptime::now().since_boot();
    let mut after = Sample::take(stage).await?;
    let mut seen = None;
    if let Some(sink) = &mut stage.sink {
        let (count, numbers) = sink.arrived_numbers().await?;
        after.count = count;
        seen = Some(numbers);
    }
    drop(held);
    let memory = (resting, memory(stage).map(|(most, _)| most));
    let backlog = stage.backlog;
    let measured =
        Measured { idle, memory, before, after, load: result, seen, settled, ended, seconds, machine, backlog };
    Ok(Report::new(options, measured))
}

/// Returns the times from the 202 to the first byte at the sink, of messages sent one at a time.
async fn idle(options: &Options, stage: &mut Stage) -> Result<Vec<Duration>, BenchError> {
    let (Some(sink), Some(service)) = (&mut stage.sink, stage.services.first()) else { return Ok(Vec::new()) };
    if !is_idle(options) {
        return Ok(Vec::new());
    }
    progress::step("sending single messages while the service is idle");
    let doing = "send a message";
    let mut connection = Connection::open(service.api).await.doing(doing)?;
    let mut request = Request::new(options, Form::Single, &service.api.to_string(), &stage.keys);
    let mut waits = Vec::new();
    for number in 0..IDLE_MESSAGES {
        let status = connection.exchange(request.starting_at(number)).await.doing(doing)?;
        let responded = Uptime::now().since_boot();
        if status != 202 {
            let body = String::from_utf8_lossy(connection.body());
            return BenchError::refused(format!("nothing was accepted: the API returned {status}: {body}"), None);
        }
        // A message that the sink refuses, for example, never arrives.
        if let Ok(Some(first_byte)) = tokio::time::timeout(ARRIVAL_TIMEOUT, sink.arrived(number)).await {
            waits.push(first_byte.saturating_sub(responded));
        }
        tokio::time::sleep(PAUSE).await;
    }
    waits.sort_unstable();
    Ok(waits)
}

/// Waits for the end of the load, and then until all accepted messages have arrived or no more arrive.
async fn until_arrived(
    options: &Options,
    stage: &Stage,
    load: &mut Load,
    before: &Count,
) -> Result<(LoadResult, Vec<Second>), BenchError> {
    let (mut progress, mut ticks) = (Progress::start(), tokio::time::interval(POLL_INTERVAL));
    let (mut result, mut last, mut changed) = (None::<LoadResult>, *before, Uptime::now());
    loop {
        tokio::select! {
            ended = load.end(), if result.is_none() => result = Some(ended?),
            _ = ticks.tick() => {}
        }
        let count = stage.sink.as_ref().map_or(*before, Sink::count);
        // The count may be older than `before`.
        let arrived = count.arrived.saturating_sub(before.arrived);
        progress.show(load.accepted(), arrived, count.backlog.saturating_sub(before.backlog));
        if count != last || result.is_none() {
            (last, changed) = (count, Uptime::now());
        }
        let Some(ended) = &result else { continue };
        let all = ended.count * u64::from(options.recipients);
        // Without the bench's sink, `until_settled` waits for the outcomes in the database.
        if stage.sink.is_none() || arrived >= all || changed.elapsed() > options.patience {
            return Ok((result.unwrap_or_default(), progress.seconds()));
        }
    }
}

/// Waits until every outcome is recorded; with `--accept-only`, until the messages of all bulks are created. Returns
/// whether this was within the time limit.
async fn until_settled(options: &Options, stage: &Stage, since: MessageId) -> Result<bool, BenchError> {
    // An external relay may need longer; with the bench's sink, all messages have arrived by now.
    let limit = if stage.sink.is_some() { SETTLE_TIMEOUT } else { Duration::from_mins(10).max(options.patience) };
    let started = Uptime::now();
    while started.elapsed() < limit {
        if settled(options, stage, since).await? {
            return Ok(true);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(false)
}

/// Returns whether `until_settled` has nothing left to wait for.
async fn settled(options: &Options, stage: &Stage, since: MessageId) -> Result<bool, BenchError> {
    let doing = "query the database";
    // In this order: a recipient that becomes a message between the two queries is found by the second one.
    if options.bulk.is_some() && !bulks_are_expanded(&stage.db, since).await.doing(doing)? {
        return Ok(false);
    }
    Ok(options.accept_only || is_settled(&stage.db, since).await.doing(doing)?)
}

/// Resident memory of the largest process of the service in MiB: the maximum so far, and the current value.
fn memory(stage: &Stage) -> Option<(f64, f64)> {
    let each = stage.services.iter().filter_map(|service| cpu::memory(service.pid));
    each.max_by(|(one, _), (other, _)| one.total_cmp(other))
}

impl Sample {
    async fn take(stage: &mut Stage) -> Result<Self, BenchError> {
        // Requests the current count: the last reported one may be a tenth of a second old.
        let count = match &mut stage.sink {
            Some(sink) => sink.arrived_numbers().await?.0,
            None => Count::default(),
        };
        let server = server(&stage.db).await.doing("query the database")?;
        let backend = u32::try_from(server.backend_pid).ok().filter(|_| server.is_local);
        let postmaster = backend.and_then(|backend| cpu::parent_named(backend, "postgres"));
        Ok(Self {
            service: stage.services.iter().map(|service| cpu::process_time(service.pid)).sum(),
            postgres: postmaster.and_then(cpu::family_time),
            sink: stage.sink.as_ref().and_then(|sink| cpu::process_time(sink.pid)),
            generator: cpu::process_time(std::process::id()),
            server,
            count,
        })
    }
}
