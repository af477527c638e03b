//! One mail over one session: MAIL, RCPT, DATA, the mail, the dot (RFC 5321 §3.3), in one write up to DATA where the
//! server can pipeline (RFC 2920).
//!
//! Each recipient is judged by the reply that was meant for it: a refusal at RCPT by that, everyone else by what came of
//! the rest. The link may fail anywhere; what it means is decided in [`Transaction::transfer`] alone.

use std::fmt::Display;
use std::time::Duration;

use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter};
use tokio::time::Instant;

use super::body::{self, BodyError};
use super::dsn;
use super::reply::RawReply;
use super::route::{Dsn, Envelope};
use super::screen::{screen, size};
use super::session::Session;
use super::settings::Timeouts;
use super::terms::Watch;
use super::wire::WireError;
use crate::domain::address::Address;
use crate::domain::outcome::{Reply, Stage, Verdict};

/// What became of a recipient.
#[derive(Debug, Clone)]
pub(super) struct Judgement {
    pub verdict: Verdict,
    pub stage: Stage,
    pub reply: Reply,
}

impl Judgement {
    pub fn new(verdict: Verdict, stage: Stage, reply: Reply) -> Self {
        Self { verdict, stage, reply }
    }
}

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Every recipient has its judgement, in the envelope's order.
    Judged(Vec<Judgement>),
    /// The server was gone before it said a word about this mail: on a session that had been idle, not an attempt.
    HungUp(Reply),
    /// The watch did not want the text to be sent, or ended: not an attempt.
    CalledOff,
}

/// One mail.
#[derive(Clone, Copy)]
pub(super) struct Parcel<'a> {
    pub envelope: &'a Envelope,
    pub mime: &'a [u8],
    /// Whether `mime` has octets above 127.
    pub eight_bit: bool,
}

/// More recipients than this are not pipelined, lest both sides wait for the other to read (RFC 2920 §3.1).
const PIPELINE_LIMIT: usize = 200;

/// What each recipient adds to the time that all commands of a mail may take together.
const RECIPIENT_TIME: Duration = Duration::from_secs(10);

/// Hands one mail over. Marks the session as broken where it cannot go on.
pub(super) async fn run(session: &mut Session, parcel: Parcel<'_>, timeouts: &Timeouts, watch: &dyn Watch) -> Ending {
    session.mails += 1;
    let mut transaction = Transaction::new(session, parcel, timeouts, watch);
    let stopped = if transaction.sent.is_empty() { Ok(()) } else { transaction.dialogue().await };
    let (verdict, reply) = match stopped {
        Ok(()) => (Verdict::Temporary, Reply::ours("not sent")),
        Err(Stop::HungUp(reply)) => {
            session.broken = true;
            return Ending::HungUp(reply);
        }
        Err(Stop::CalledOff) => {
            session.broken = true;
            return Ending::CalledOff;
        }
        Err(Stop::Rest(verdict, reply)) => {
            transaction.session.broken = true;
            (verdict, reply)
        }
    };
    let rest = Judgement::new(verdict, transaction.stage, reply);
    let fates = transaction.fates;
    session.rest();
    Ending::Judged(fates.into_iter().map(|fate| fate.unwrap_or_else(|| rest.clone())).collect())
}

/// Why the dialogue cannot go on; the session cannot either.
enum Stop {
    HungUp(Reply),
    CalledOff,
    /// Whoever has no judgement yet gets this one.
    Rest(Verdict, Reply),
}

struct Transaction<'a> {
    session: &'a mut Session,
    parcel: Parcel<'a>,
    timeouts: &'a Timeouts,
    watch: &'a dyn Watch,
    /// How far it has come.
    stage: Stage,
    /// The judgement of each recipient of the envelope, as soon as there is one.
    fates: Vec<Option<Judgement>>,
    /// The recipients that are named to the server.
    sent: Vec<usize>,
    smtputf8: bool,
    pipelined: bool,
    deadline: Instant,
}

impl<'a> Transaction<'a> {
    fn new(session: &'a mut Session, parcel: Parcel<'a>, timeouts: &'a Timeouts, watch: &'a dyn Watch) -> Self {
        let to = &parcel.envelope.to;
        let fates: Vec<_> = to.iter().map(|address| screen(&session.offer, parcel, address)).collect();
        let sent: Vec<usize> = (0..to.len()).filter(|index| fates[*index].is_none()).collect();
        let smtputf8 = session.offer.smtputf8()
            && (parcel.eight_bit || parcel.envelope.from.iter().chain(to).any(Address::needs_smtputf8));
        let pipelined = session.offer.pipelining && sent.len() <= PIPELINE_LIMIT;
        let recipients = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let time = timeouts.mail + timeouts.rcpt + timeouts.data + RECIPIENT_TIME.saturating_mul(recipients);
        let (stage, deadline) = (Stage::Mail, Instant::now() + time);
        Self { session, parcel, timeouts, watch, stage, fates, sent, smtputf8, pipelined, deadline }
    }

    async fn dialogue(&mut self) -> Result<(), Stop> {
        if self.pipelined {
            let group = self.group();
            let written = self.session.wire.write(group.as_bytes(), self.deadline).await;
            written.map_err(|failure| silence("MAIL", &failure.error))?;
        }
        let greeted = self.mail().await?;
        self.recipients(greeted).await?;
        let accepted = self.fates.iter().any(Option::is_none);
        if !accepted && !self.pipelined {
            self.session.must_reset = greeted;
            return Ok(());
        }
        self.stage = Stage::Data;
        let reply = self.exchange("DATA", || Data, self.timeouts.data).await?;
        match (reply.is_intermediate(), accepted) {
            (true, true) => self.transfer().await,
            (true, false) => self.transfer_nothing().await,
            (false, _) if reply.is_positive() => Err(Stop::Rest(Verdict::Temporary, reply.to_reply())),
            (false, _) => {
                self.fill(refusal(reply.code), &reply);
                self.session.must_reset = greeted;
                Ok(())
            }
        }
    }

    /// All commands up to DATA.
    fn group(&self) -> String {
        let mut group = self.mail_command().to_string();
        for index in &self.sent {
            group.push_str(&self.rcpt_command(*index).to_string());
        }
        group.push_str(&Data.to_string());
        group
    }

    fn mail_command(&self) -> Mail {
        let mut parameters = Vec::new();
        if self.session.offer.size {
            parameters.push(MailParameter::Size(size(self.parcel.mime)));
        }
        if self.parcel.eight_bit && self.session.offer.eight_bit_mime() {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        if self.smtputf8 {
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if let Some(dsn) = self.dsn() {
            parameters.extend(dsn::of_mail(dsn));
        }
        Mail::new(self.parcel.envelope.from.as_ref().map(spoken), parameters)
    }

    fn rcpt_command(&self, index: usize) -> Rcpt {
        let to = &self.parcel.envelope.to[index];
        let parameters = self.dsn().map_or_else(Vec::new, |dsn| dsn::of_recipient(dsn, to));
        Rcpt::new(spoken(to), parameters)
    }

    /// What is asked to be told, where the server can be asked.
    fn dsn(&self) -> Option<&'a Dsn> {
        self.parcel.envelope.dsn.as_ref().filter(|_| self.session.offer.dsn)
    }

    /// MAIL; answers whether it was taken. Its refusal is everyone's.
    async fn mail(&mut self) -> Result<bool, Stop> {
        let wait = self.deadline.min(Instant::now() + self.timeouts.mail);
        let mut sent = Ok(());
        if !self.pipelined {
            let command = self.mail_command().to_string();
            sent = self.session.wire.write(command.as_bytes(), wait).await.map_err(|failure| failure.error);
        }
        let reply = match sent {
            Ok(()) => self.session.wire.reply(wait).await,
            Err(error) => Err(error),
        };
        match reply {
            Err(error) => Err(silence("MAIL", &error)),
            Ok(reply) if reply.closes() => Err(Stop::HungUp(reply.to_reply())),
            Ok(reply) if reply.is_intermediate() => Err(Stop::Rest(Verdict::Temporary, reply.to_reply())),
            Ok(reply) if reply.is_positive() => Ok(true),
            Ok(reply) => {
                self.fill(refusal(reply.code), &reply);
                Ok(false)
            }
        }
    }

    /// RCPT for each; a refusal is that recipient's own.
    async fn recipients(&mut self, greeted: bool) -> Result<(), Stop> {
        if !greeted && !self.pipelined {
            return Ok(());
        }
        self.stage = Stage::Rcpt;
        for position in 0..self.sent.len() {
            let index = self.sent[position];
            let command = self.rcpt_command(index);
            let reply = self.exchange("RCPT", || command, self.timeouts.rcpt).await?;
            if reply.is_intermediate() {
                return Err(Stop::Rest(Verdict::Temporary, reply.to_reply()));
            }
            if !reply.is_positive() && greeted {
                self.fates[index] = Some(Judgement::new(refusal(reply.code), self.stage, reply.to_reply()));
            }
        }
        Ok(())
    }

    /// The mail and its dot, and the answer to it.
    async fn transfer(&mut self) -> Result<(), Stop> {
        self.expect_silence()?;
        let accepted: Vec<usize> = (0..self.fates.len()).filter(|index| self.fates[*index].is_none()).collect();
        if !self.watch.before_text(&accepted).await {
            return Err(Stop::CalledOff);
        }
        let wire = &mut self.session.wire;
        if let Err(failure) = body::send(wire, self.parcel.mime, self.timeouts, self.watch).await {
            let BodyError::Failed { uncertain, error } = failure else { return Err(Stop::CalledOff) };
            if uncertain {
                self.stage = Stage::Dot;
                return Err(Stop::Rest(Verdict::Uncertain, ours("the final dot", &error)));
            }
            // A server that hangs up in the middle has often said why.
            let (verdict, reply) = match wire.reply(Instant::now() + self.timeouts.quit).await {
                Ok(reply) if reply.code >= 400 => (refusal(reply.code), reply.to_reply()),
                _ => (Verdict::Temporary, ours("the mail's text", &error)),
            };
            return Err(Stop::Rest(verdict, reply));
        }
        self.stage = Stage::Dot;
        match wire.reply(Instant::now() + self.timeouts.final_dot).await {
            Err(error) => Err(Stop::Rest(Verdict::Uncertain, ours("the final dot", &error))),
            Ok(reply) if reply.closes() => Err(Stop::Rest(Verdict::Temporary, reply.to_reply())),
            Ok(reply) if reply.is_intermediate() => Err(Stop::Rest(Verdict::Temporary, reply.to_reply())),
            Ok(reply) => {
                let verdict = if reply.is_positive() { Verdict::Accepted } else { refusal(reply.code) };
                self.fill(verdict, &reply);
                Ok(())
            }
        }
    }

    /// The server wants a mail for no one: it gets an empty one, and its answer concerns nobody (RFC 2920 §3.1).
    async fn transfer_nothing(&mut self) -> Result<(), Stop> {
        self.pipelined = false;
        self.exchange("the final dot", || ".\r\n", self.timeouts.data).await?;
        Ok(())
    }

    /// A reply too many would be taken for the answer to the dot.
    fn expect_silence(&self) -> Result<(), Stop> {
        if self.session.wire.has_leftovers() {
            let why = Reply::ours_with(4, 5, 0, "the server sent a reply that nothing had asked for");
            return Err(Stop::Rest(Verdict::Temporary, why));
        }
        Ok(())
    }

    /// Sends a command, unless it went with the group, and reads its reply.
    async fn exchange<C: Display>(
        &mut self,
        stage: &str,
        command: impl FnOnce() -> C,
        wait: Duration,
    ) -> Result<RawReply, Stop> {
        let deadline = self.deadline.min(Instant::now() + wait);
        let lost = |error: &WireError| Stop::Rest(Verdict::Temporary, ours(stage, error));
        if !self.pipelined {
            let written = self.session.wire.write(command().to_string().as_bytes(), deadline).await;
            written.map_err(|failure| lost(&failure.error))?;
        }
        let reply = self.session.wire.reply(deadline).await.map_err(|error| lost(&error))?;
        if reply.closes() { Err(Stop::Rest(Verdict::Temporary, reply.to_reply())) } else { Ok(reply) }
    }

    fn fill(&mut self, verdict: Verdict, reply: &RawReply) {
        for fate in self.fates.iter_mut().filter(|fate| fate.is_none()) {
            *fate = Some(Judgement::new(verdict, self.stage, reply.to_reply()));
        }
    }
}

fn spoken(address: &Address) -> lettre::Address {
    lettre::Address::new_dangerous(address.local(), address.domain())
}

/// A refusal's verdict; to be asked for credentials or TLS (RFC 4954 §6, RFC 3207 §4) is about us and no recipient.
fn refusal(code: u16) -> Verdict {
    if matches!(code, 530 | 534 | 535 | 538) { Verdict::Temporary } else { Verdict::of_refusal(code) }
}

fn ours(stage: &str, error: &WireError) -> Reply {
    Reply::ours_with(4, 4, 2, format!("at {stage}: {error}"))
}

/// No reply to MAIL.
fn silence(stage: &str, error: &WireError) -> Stop {
    let reply = ours(stage, error);
    if error.is_hangup() { Stop::HungUp(reply) } else { Stop::Rest(Verdict::Temporary, reply) }
}
