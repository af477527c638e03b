//! `--backlog`: messages that wait in the queue while others are measured. The transaction that commits requests
//! (`db::messages::insert`) inserts them, in groups, so that every table has the same rows as in production. Only HTTP
//! is skipped, and the messages have a short text.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;

use super::error::Doing as _;
use super::options::{Backlog, Options};
use super::{BenchError, mail, progress};
use crate::clock::{Clock as _, SystemClock};
use crate::db::bench::{Holding, checkpoint};
use crate::db::group_commit::Patience;
use crate::db::lanes::{self, LaneName, NamedLane};
use crate::db::messages::insert::MessageInsert;
use crate::db::schema::partitions;
use crate::db::{Db, DbError, group_commit, streams};
use crate::domain::address::Mailbox;
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::limits::StreamChange;
use crate::domain::message::{Content, NewMessage, NewRecipient, RecipientKind};
use crate::domain::outcome::OnUncertain;

/// The stream of a paused backlog.
pub(super) const STREAM: &str = "bench-backlog";
/// Messages per transaction, and concurrent transactions.
const GROUP: u64 = 500;
const WRITERS: usize = 3;
/// Text of each message.
const SIZE: usize = 200;
/// How far ahead a scheduled backlog is due.
const LATER: TimeDelta = TimeDelta::days(30);

/// What all messages of the backlog have in common.
struct Kind {
    stream: &'static str,
    lanes: Vec<NamedLane>,
    domains: u64,
    from: Mailbox,
    text: String,
    scheduled: bool,
}

/// Inserts the missing messages of the backlog. Returns how many wait.
pub(super) async fn fill(db: &Db, options: &Options, there: Holding) -> Result<u64, BenchError> {
    let there = u64::try_from(there.backlog).unwrap_or(0);
    let missing = options.backlog.saturating_sub(there);
    if missing == 0 {
        return Ok(there);
    }
    let doing = "put the backlog into the queue";
    let kind = Arc::new(kind(db, options).await?);
    let (next, done) = (Arc::new(AtomicU64::new(there)), Arc::<AtomicU64>::default());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(db.clone(), kind.clone(), next.clone(), options.backlog, done.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            ended = writers.join_next() => match ended {
                Some(ended) => ended.doing(doing)??,
                None => break,
            },
            _ = ticks.tick() => progress::step(&format!("backlog: {} of {missing}", done.load(Ordering::Relaxed))),
        }
    }
    // The checkpoint keeps the cost of these writes out of the measurement.
    checkpoint(db).await.doing(doing)?;
    Ok(options.backlog)
}

/// Creates the stream and the lanes of the backlog.
async fn kind(db: &Db, options: &Options) -> Result<Kind, BenchError> {
    let doing = "make the backlog's stream";
    let (now, tenant) = (SystemClock.now(), TenantId::DEFAULT);
    partitions::ensure(db, now).await.doing(doing)?;
    let stream = match options.backlog_kind {
        Backlog::Paused => STREAM,
        Backlog::Scheduled => "transactional",
        Backlog::Due => "bulk",
    };
    if options.backlog_kind == Backlog::Paused {
        streams::create(db, tenant, STREAM, StreamChange::default(), now).await.doing(doing)?;
        streams::pause(db, tenant, STREAM, Some("the bench measures other messages"), now).await.doing(doing)?;
    }
    let (route, domains) = if options.direct { ("mx", options.domains) } else { ("relay", 1) };
    let mut found = Vec::new();
    let name = |number: u32| {
        let domain = if options.direct { domain(number.into()) } else { "*".to_owned() };
        Arc::new(LaneName { tenant, stream: stream.to_owned(), route: route.to_owned(), domain })
    };
    for numbers in (0..domains).collect::<Vec<_>>().chunks(1_000) {
        let names: Vec<Arc<LaneName>> = numbers.iter().map(|number| name(*number)).collect();
        lanes::make(db, &names).await.doing(doing)?;
        let ids = lanes::find(db, &names).await.doing(doing)?;
        for name in names {
            let id = *ids.get(&*name).ok_or(DbError::not_found("lanes.find")).doing(doing)?;
            found.push(NamedLane { id, name });
        }
    }
    let from = format!("bench@{}", mail::SENDER_DOMAIN).parse::<Mailbox>().doing(doing)?;
    let scheduled = options.backlog_kind == Backlog::Scheduled;
    Ok(Kind { stream, lanes: found, domains: options.domains.into(), from, text: mail::text(SIZE), scheduled })
}

fn domain(number: u64) -> String {
    format!("d{number:05}.{}", mail::RECIPIENTS)
}

/// Inserts groups of messages until none is left.
async fn write(
    db: Db,
    kind: Arc<Kind>,
    next: Arc<AtomicU64>,
    end: u64,
    done: Arc<AtomicU64>,
) -> Result<(), BenchError> {
    loop {
        let first = next.fetch_add(GROUP, Ordering::Relaxed);
        if first >= end {
            return Ok(());
        }
        let now = SystemClock.now();
        let group: Result<Vec<MessageInsert>, BenchError> =
            (first..end.min(first + GROUP)).map(|number| kind.intake(number, now)).collect();
        let group = group?;
        let written: Result<_, DbError> =
            group_commit::commit(&db, &group, &[], now, Patience::Long).await.map_err(DbError::from);
        written.doing("put the backlog into the queue")?;
        done.fetch_add(group.len() as u64, Ordering::Relaxed);
    }
}

impl Kind {
    fn intake(&self, number: u64, now: DateTime<Utc>) -> Result<MessageInsert, BenchError> {
        let address = format!("{}@{}", mail::waiting(number), domain(number % self.domains));
        let recipient = NewRecipient {
            id: RecipientId::new(now),
            kind: RecipientKind::To,
            mailbox: address.parse::<Mailbox>().doing("write an address")?,
        };
        let message = NewMessage {
            id: MessageId::new(now),
            created_at: now,
            from: self.from.clone(),
            recipients: vec![recipient],
            reply_to: Vec::new(),
            subject: "Waiting".into(),
            content: Content { text: Some(self.text.clone()), ..Content::default() },
            attachments: Vec::new(),
            tags: Vec::new(),
            metadata: serde_json::Map::new(),
            stream: self.stream.to_owned(),
            scheduled_at: self.scheduled.then(|| now + LATER),
            expires_at: None,
            on_uncertain: OnUncertain::default(),
            ignore_suppression: false,
        };
        let place = usize::try_from(number % self.lanes.len() as u64).ok();
        let lane = place.and_then(|place| self.lanes.get(place));
        let lanes = lane.cloned().into_iter().collect();
        Ok(MessageInsert { tenant: TenantId::DEFAULT, message, lanes, idempotency: None, taker: None })
    }
}
