//! The measurement: a few messages one at a time while the service is idle, then the load, until everything has arrived
//! and its outcome is recorded.

use std::time::Duration;

use chrono::TimeDelta;

use super::error::Doing as _;
use super::http::Connection;
use super::load::{Answers, Load};
use super::machine::Machine;
use super::mail::Request;
use super::options::Options;
use super::progress::{Progress, Second};
use super::report::Report;
use super::seen::Seen;
use super::sink::Count;
use super::stage::{IDLE_MAILS, Stage, is_idle};
use super::{BenchError, cpu, progress};
use crate::clock::{Clock as _, SystemClock, Uptime};
use crate::db::bench::{Server, hold, is_settled, server};
use crate::domain::id::MessageId;

/// Poll interval for what has arrived.
const LOOK: Duration = Duration::from_millis(50);
/// Pause between two messages while the service is idle.
const PAUSE: Duration = Duration::from_millis(30);
/// Time limit of one of these messages.
const ONE: Duration = Duration::from_secs(5);
/// Time limit for recording the outcomes once everything has arrived.
const SETTLES: Duration = Duration::from_secs(10);

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

/// Everything that the figures are calculated from.
#[derive(Debug)]
pub(super) struct Measured {
    pub idle: Vec<Duration>,
    /// Resident memory of the largest process of the service before the load, and its maximum, in MiB.
    pub memory: (Option<f64>, Option<f64>),
    pub before: Sample,
    pub after: Sample,
    pub answers: Answers,
    pub seen: Option<Seen>,
    pub settled: bool,
    /// When everything was recorded, since the machine started; `None` in a run without workers.
    pub ended: Duration,
    pub seconds: Vec<Second>,
    pub machine: Machine,
    pub backlog: u64,
}

/// Runs the measurement.
pub(super) async fn measure(options: &Options, stage: &mut Stage) -> Result<Report, BenchError> {
    let first = server(&stage.db).await.doing("query the database")?;
    let own = options.database_url.is_none().then(|| stage.scratch.postgres());
    let machine = Machine::of(&first, own.as_deref());
    machine.warnings().iter().for_each(|warning| progress::step(&format!("note: {warning}")));
    let idle = idle(options, stage).await?;
    let held = if options.held_transaction { Some(hold(&stage.db).await.doing("hold a transaction")?) } else { None };
    let resting = memory(stage).map(|(_, now)| now);
    let since = MessageId::new(SystemClock.now() - TimeDelta::milliseconds(1));
    let before = Sample::take(stage).await?;
    progress::step("measuring");
    let apis: Vec<_> = stage.services.iter().map(|service| service.api).collect();
    let mut load = Load::start(options, IDLE_MAILS, &apis, &stage.key)?;
    let (answers, seconds) = until_arrived(options, stage, &mut load, &before.count).await?;
    if answers.count == 0 {
        let why = answers.complaint.unwrap_or_else(|| "the time was too short".to_owned());
        return BenchError::refused(format!("nothing was accepted: {why}"), None);
    }
    let settled = options.accept_only || until_settled(options, stage, since).await?;
    let ended = Uptime::now().since_boot();
    let mut after = Sample::take(stage).await?;
    let mut seen = None;
    if let Some(sink) = &mut stage.sink {
        let (count, numbers) = sink.seen().await?;
        after.count = count;
        seen = Some(numbers);
    }
    drop(held);
    let memory = (resting, memory(stage).map(|(most, _)| most));
    let backlog = stage.backlog;
    let measured = Measured { idle, memory, before, after, answers, seen, settled, ended, seconds, machine, backlog };
    Ok(Report::of(options, measured))
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
    let mut request = Request::new(options, &service.api.to_string(), &stage.key);
    let mut waits = Vec::new();
    for number in 0..IDLE_MAILS {
        let status = connection.exchange(request.of(number)).await.doing(doing)?;
        let answered = Uptime::now().since_boot();
        if status != 202 {
            let said = String::from_utf8_lossy(connection.body());
            return BenchError::refused(format!("nothing was accepted: the API answered {status}: {said}"), None);
        }
        // A message that the sink refuses, for example, never arrives.
        if let Ok(Some(first_octet)) = tokio::time::timeout(ONE, sink.arrived(number)).await {
            waits.push(first_octet.saturating_sub(answered));
        }
        tokio::time::sleep(PAUSE).await;
    }
    waits.sort_unstable();
    Ok(waits)
}

/// Waits for the end of the load, and until everything accepted has arrived or nothing more arrives.
async fn until_arrived(
    options: &Options,
    stage: &Stage,
    load: &mut Load,
    before: &Count,
) -> Result<(Answers, Vec<Second>), BenchError> {
    let (mut progress, mut ticks) = (Progress::start(), tokio::time::interval(LOOK));
    let (mut answers, mut last, mut changed) = (None::<Answers>, *before, Uptime::now());
    loop {
        tokio::select! {
            ended = load.end(), if answers.is_none() => answers = Some(ended?),
            _ = ticks.tick() => {}
        }
        let count = stage.sink.as_ref().map_or(*before, super::process::Sink::count);
        // The count may be older than `before`.
        let arrived = count.arrived.saturating_sub(before.arrived);
        progress.show(load.accepted(), arrived, count.waiting.saturating_sub(before.waiting));
        if count != last || answers.is_none() {
            (last, changed) = (count, Uptime::now());
        }
        let Some(ended) = &answers else { continue };
        let all = ended.count * u64::from(options.recipients);
        // Without the bench's sink, the database says when everything is done.
        if stage.sink.is_none() || arrived >= all || changed.elapsed() > options.patience {
            return Ok((answers.unwrap_or_default(), progress.seconds()));
        }
    }
}

/// Waits until every outcome is recorded. Returns whether it is.
async fn until_settled(options: &Options, stage: &Stage, since: MessageId) -> Result<bool, BenchError> {
    // An external relay takes longer; with the bench's sink everything has arrived by now.
    let limit = if stage.sink.is_some() { SETTLES } else { Duration::from_mins(10).max(options.patience) };
    let begun = Uptime::now();
    while begun.elapsed() < limit {
        if is_settled(&stage.db, since).await.doing("query the database")? {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// Resident memory of the largest process of the service: the maximum so far and now, in MiB.
fn memory(stage: &Stage) -> Option<(f64, f64)> {
    let each = stage.services.iter().filter_map(|service| cpu::memory(service.pid));
    each.max_by(|(one, _), (other, _)| one.total_cmp(other))
}

impl Sample {
    async fn take(stage: &mut Stage) -> Result<Self, BenchError> {
        // Requests a new count: the last one may be a tenth of a second old.
        let count = match &mut stage.sink {
            Some(sink) => sink.seen().await?.0,
            None => Count::default(),
        };
        let server = server(&stage.db).await.doing("query the database")?;
        let backend = u32::try_from(server.backend_pid).ok().filter(|_| server.is_local);
        let postmaster = backend.and_then(|backend| cpu::parent(backend, "postgres"));
        Ok(Self {
            service: stage.services.iter().map(|service| cpu::of(service.pid)).sum(),
            postgres: postmaster.and_then(cpu::of_family),
            sink: stage.sink.as_ref().and_then(|sink| cpu::of(sink.pid)),
            generator: cpu::of(std::process::id()),
            server,
            count,
        })
    }
}
