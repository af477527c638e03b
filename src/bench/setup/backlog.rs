//! `--backlog`: messages that wait in the queue while others are measured. They are inserted in groups by the same
//! transaction as accepted messages (`db::messages::insert`), so that every table has the same rows as in production.
//! Only HTTP is skipped, and the messages have a short text.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;

use crate::bench::client::mail;
use crate::bench::error::Doing as _;
use crate::bench::options::{Backlog, Options};
use crate::bench::{BenchError, progress};
use crate::clock::{Clock as _, SystemClock};
use crate::db::bench::{DatabaseContents, checkpoint};
use crate::db::group_commit::{self, LockTimeout};
use crate::db::lanes::{self, LaneName, NamedLane};
use crate::db::messages::insert::MessageInsert;
use crate::db::schema::partitions;
use crate::db::{Db, DbError, streams};
use crate::domain::address::Mailbox;
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::limits::StreamChange;
use crate::domain::message::{Content, NewMessage, NewRecipient, RecipientKind};
use crate::domain::outcome::OnUncertain;

/// The stream of a paused backlog.
pub(in crate::bench) const STREAM: &str = "bench-backlog";
/// Messages per transaction.
const GROUP_SIZE: u64 = 500;
/// Concurrent transactions.
const WRITERS: usize = 3;
/// Bytes of text of each message.
const TEXT_BYTES: usize = 200;
/// How far ahead a scheduled backlog is due.
const SCHEDULED_IN: TimeDelta = TimeDelta::days(30);

/// The properties that all messages of the backlog share.
struct Template {
    stream: &'static str,
    lanes: Vec<NamedLane>,
    domains: u64,
    from: Mailbox,
    text: String,
    scheduled: bool,
}

/// Inserts the missing messages of the backlog. Returns how many messages the backlog then has.
pub(in crate::bench) async fn fill(db: &Db, options: &Options, existing: DatabaseContents) -> Result<u64, BenchError> {
    let existing = u64::try_from(existing.backlog).unwrap_or(0);
    let missing = options.backlog.saturating_sub(existing);
    if missing == 0 {
        return Ok(existing);
    }
    let doing = "insert the backlog";
    let template = Arc::new(create_template(db, options).await?);
    let (next, done) = (Arc::new(AtomicU64::new(existing)), Arc::<AtomicU64>::default());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(db.clone(), template.clone(), next.clone(), options.backlog, done.clone()));
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

/// Creates the stream and the lanes of the backlog, and returns the template of its messages.
async fn create_template(db: &Db, options: &Options) -> Result<Template, BenchError> {
    let doing = "create the backlog's stream";
    let (now, tenant) = (SystemClock.now(), TenantId::DEFAULT);
    partitions::ensure(db, now).await.doing(doing)?;
    let stream = match options.backlog_kind {
        Backlog::Paused => STREAM,
        Backlog::Scheduled if options.bulk.is_some() => "bulk",
        Backlog::Scheduled => "transactional",
        Backlog::Due => "bulk",
    };
    if options.backlog_kind == Backlog::Paused {
        streams::create(db, tenant, STREAM, StreamChange::default(), now).await.doing(doing)?;
        streams::pause(db, tenant, STREAM, Some("postrider bench measures other messages"), now).await.doing(doing)?;
    }
    let (route, domains) = if options.direct { ("mx", options.domains) } else { ("relay", 1) };
    let mut named_lanes = Vec::new();
    let name = |number: u32| {
        let domain = if options.direct { domain(number.into()) } else { "*".to_owned() };
        Arc::new(LaneName { tenant, stream: stream.to_owned(), route: route.to_owned(), domain })
    };
    for numbers in (0..domains).collect::<Vec<_>>().chunks(1_000) {
        let names: Vec<Arc<LaneName>> = numbers.iter().map(|number| name(*number)).collect();
        lanes::create(db, &names).await.doing(doing)?;
        let ids = lanes::find(db, &names).await.doing(doing)?;
        for name in names {
            let id = *ids.get(&*name).ok_or(DbError::not_found("lanes.find")).doing(doing)?;
            named_lanes.push(NamedLane { id, name });
        }
    }
    let from = format!("bench@{}", mail::SENDER_DOMAIN).parse::<Mailbox>().doing(doing)?;
    let scheduled = options.backlog_kind == Backlog::Scheduled;
    Ok(Template {
        stream,
        lanes: named_lanes,
        domains: options.domains.into(),
        from,
        text: mail::text(TEXT_BYTES),
        scheduled,
    })
}

fn domain(number: u64) -> String {
    format!("d{number:05}.{}", mail::RECIPIENTS)
}

/// Inserts groups of messages until the backlog has `end` messages.
async fn write(
    db: Db,
    template: Arc<Template>,
    next: Arc<AtomicU64>,
    end: u64,
    done: Arc<AtomicU64>,
) -> Result<(), BenchError> {
    loop {
        let first = next.fetch_add(GROUP_SIZE, Ordering::Relaxed);
        if first >= end {
            return Ok(());
        }
        let now = SystemClock.now();
        let group: Result<Vec<MessageInsert>, BenchError> =
            (first..end.min(first + GROUP_SIZE)).map(|number| template.message_insert(number, now)).collect();
        let group = group?;
        let written: Result<_, DbError> =
            group_commit::commit(&db, &group, &[], now, LockTimeout::Long).await.map_err(DbError::from);
        written.doing("insert the backlog")?;
        done.fetch_add(group.len() as u64, Ordering::Relaxed);
    }
}

impl Template {
    fn message_insert(&self, number: u64, now: DateTime<Utc>) -> Result<MessageInsert, BenchError> {
        let address = format!("{}@{}", mail::backlog_local_part(number), domain(number % self.domains));
        let recipient = NewRecipient {
            id: RecipientId::new(now),
            kind: RecipientKind::To,
            mailbox: address.parse::<Mailbox>().doing("make an address")?,
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
            scheduled_at: self.scheduled.then(|| now + SCHEDULED_IN),
            expires_at: None,
            on_uncertain: OnUncertain::default(),
            ignore_suppression: false,
            message_id: None,
            in_reply_to: None,
            bulk: None,
            relay: None,
            template: None,
            warnings: Vec::new(),
        };
        let position = usize::try_from(number % self.lanes.len() as u64).ok();
        let lane = position.and_then(|position| self.lanes.get(position));
        let lanes = lane.cloned().into_iter().collect();
        Ok(MessageInsert {
            tenant: TenantId::DEFAULT,
            message,
            lanes,
            key: None,
            idempotency: None,
            direct_consumer: None,
            is_canceled: false,
        })
    }
}
