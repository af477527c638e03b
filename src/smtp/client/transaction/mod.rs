//! One message over one session: MAIL, RCPT, DATA, the text, the final dot (RFC 5321 §3.3). The commands up to DATA are
//! sent in one write if the server supports pipelining (RFC 2920).
//!
//! Each recipient is judged by the reply to its command: one refused at RCPT by that reply, all others by the replies
//! to the commands that concern the whole transaction. Recipients beyond the server's limit are left for the next
//! transaction (RFC 5321 §4.5.3.1.10). The connection may fail anywhere; only [`Transaction::transfer`] decides what a
//! failure during the text means.

pub(in crate::smtp) mod body;
pub(in crate::smtp) mod dsn;
pub(in crate::smtp) mod preflight;
pub(in crate::smtp) mod recipient_limit;

use std::fmt::{Display, Write as _};
use std::time::Duration;

use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter};
use tokio::time::Instant;

use super::connection::reply::RawReply;
use super::connection::session::Session;
use super::connection::wire::{FinalReply, WireError};
use super::outgoing_message::{Batch, EightBit, Ending, Judged, Judgement, OutgoingMessage};
use super::route::Dsn;
use super::send_options::SendGuard;
use super::settings::Timeouts;
use crate::domain::address::Address;
use crate::domain::outcome::{Reply, Stage, Verdict};
use crate::domain::refusal;
use body::BodyError;
use preflight::{preflight, size};

/// Maximum recipients of a pipelined group; with more, both sides could wait for the other to read (RFC 2920 §3.1).
const PIPELINE_LIMIT: usize = 200;

const DATA: &str = "DATA\r\n";
/// Approximate length of a command in bytes.
const COMMAND: usize = 96;

/// Time that each recipient adds to the time limit for all commands of a message.
const RECIPIENT_TIME: Duration = Duration::from_secs(10);

/// Sends one message to the recipients of the batch. Marks the session as broken if it cannot continue.
pub(in crate::smtp) async fn run(
    session: &mut Session,
    message: OutgoingMessage<'_>,
    batch: Batch<'_>,
    timeouts: &Timeouts,
    watch: &dyn SendGuard,
) -> Ending {
    session.mails += 1;
    let mut transaction = Transaction::new(session, message, batch, timeouts, watch);
    let stopped = if transaction.open.is_empty() { Ok(()) } else { transaction.dialogue().await };
    transaction.session.broken |= stopped.is_err();
    let whole = match stopped {
        Ok(()) => None,
        Err(Stop::HungUp(reply)) => return Ending::HungUp(reply),
        Err(Stop::CalledOff) => return Ending::CalledOff,
        Err(Stop::Rest(_, reply)) if transaction.is_cut_short_by(&reply) => {
            let reply = Judgement::new(Verdict::Temporary, Stage::Rcpt, reply);
            return Ending::Judged(transaction.cut_short(&reply));
        }
        Err(Stop::Rest(verdict, reply)) => Some(Judgement::new(verdict, transaction.stage, reply)),
        Err(Stop::OutOfStep) => Some(transaction.forget_replies()),
    };
    transaction.session.rest();
    let without_tls = transaction.session.without_tls.clone();
    let mut judged = transaction.judged(whole);
    if let Some(why) = without_tls {
        judged.explain(&why);
    }
    Ending::Judged(judged)
}

/// Why the dialogue stopped; the session cannot continue either.
enum Stop {
    HungUp(Reply),
    CalledOff,
    /// All recipients without a judgement get this one.
    Rest(Verdict, Reply),
    /// The server has sent one reply too many, so replies cannot be matched to commands. No text was sent.
    OutOfStep,
}

struct Transaction<'a> {
    session: &'a mut Session,
    message: OutgoingMessage<'a>,
    timeouts: &'a Timeouts,
    watch: &'a dyn SendGuard,
    is_further: bool,
    /// The current stage.
    stage: Stage,
    /// The recipients with a judgement.
    judged: Vec<(usize, Judgement)>,
    /// The recipients sent in RCPT.
    sent: Vec<usize>,
    /// The recipients among them that were not refused.
    open: Vec<usize>,
    /// Number of recipients that the server accepted.
    taken: usize,
    /// The recipients refused only because of their number.
    over: Vec<(usize, Judgement)>,
    /// The recipients not sent in RCPT.
    unnamed: Vec<usize>,
    /// Judgement of all recipients that were not refused at RCPT.
    whole: Option<Judgement>,
    smtputf8: bool,
    pipelined: bool,
    deadline: Instant,
}

impl<'a> Transaction<'a> {
    fn new(
        session: &'a mut Session,
        message: OutgoingMessage<'a>,
        batch: Batch<'_>,
        timeouts: &'a Timeouts,
        watch: &'a dyn SendGuard,
    ) -> Self {
        let to = &message.envelope.to;
        let (mut judged, mut sent) = (Vec::new(), Vec::with_capacity(batch.places.len()));
        for &place in batch.places {
            match preflight(&session.offer, message, &to[place]) {
                Some(judgement) => judged.push((place, judgement)),
                None => sent.push(place),
            }
        }
        let unnamed = sent.split_off(batch.most.min(sent.len()));
        let needs_smtputf8 = message.eight_bit == EightBit::Header
            || message.envelope.from.as_ref().is_some_and(Address::needs_smtputf8)
            || sent.iter().any(|place| to[*place].needs_smtputf8());
        let smtputf8 = session.offer.smtputf8() && needs_smtputf8;
        let pipelined = session.offer.pipelining && sent.len() <= PIPELINE_LIMIT;
        let recipients = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let time = timeouts.mail + timeouts.rcpt + timeouts.data + RECIPIENT_TIME.saturating_mul(recipients);
        let (stage, deadline) = (Stage::Mail, Instant::now() + time);
        Self {
            session,
            message,
            timeouts,
            watch,
            is_further: batch.is_further,
            stage,
            judged,
            open: sent.clone(),
            sent,
            taken: 0,
            over: Vec::new(),
            unnamed,
            whole: None,
            smtputf8,
            pipelined,
            deadline,
        }
    }

    /// Returns the result; recipients without a judgement get `stopped`.
    fn judged(mut self, stopped: Option<Judgement>) -> Judged {
        let is_stopped = stopped.is_some();
        let whole = self.whole.take().or(stopped);
        let allows_more = |whole: &Judgement| whole.verdict != Verdict::Temporary && whole.stage > Stage::Mail;
        let may_go_on = !is_stopped && whole.as_ref().is_none_or(allows_more);
        let unsent = || Judgement::new(Verdict::Temporary, self.stage, Reply::ours("not sent"));
        let last = whole.unwrap_or_else(unsent);
        let limit = (!self.over.is_empty()).then_some(self.taken).filter(|taken| *taken > 0);
        self.judged.extend(self.open.iter().map(|place| (*place, last.clone())));
        // A reply to MAIL applies to all recipients; a later one only to those sent in RCPT.
        let others = match (last.stage, last.verdict, self.over.first()) {
            (Stage::Mail, ..) | (_, Verdict::Temporary, _) => last,
            (.., Some((_, first))) => first.clone(),
            (..) => Judgement { verdict: Verdict::Temporary, ..last },
        };
        let mut left = self.over;
        left.extend(self.unnamed.into_iter().map(|place| (place, others.clone())));
        left.sort_unstable_by_key(|(place, _)| *place);
        Judged { done: self.judged, left, may_go_on, limit }
    }

    /// Withdraws the judgements made from replies that cannot be matched; returns the judgement for all others.
    fn forget_replies(&mut self) -> Judgement {
        let why = "the server sent an unexpected reply";
        let unknown = Judgement::new(Verdict::Temporary, self.stage, Reply::ours_with(4, 5, 0, why));
        let is_reply = |judgement: &&mut Judgement| judgement.reply.code.is_some();
        for judgement in self.judged.iter_mut().map(|(_, judgement)| judgement).filter(is_reply) {
            *judgement = unknown.clone();
        }
        unknown
    }

    /// Returns whether the server closed the connection because of the number of recipients, after it accepted some.
    fn is_cut_short_by(&self, reply: &Reply) -> bool {
        self.stage == Stage::Rcpt && self.taken > 0 && reply.code == Some(421) && refusal::is_recipient_limit(reply)
    }

    /// Leaves the recipients for further transactions with fewer at a time.
    fn cut_short(self, reply: &Judgement) -> Judged {
        let again = self.open.into_iter().chain(self.unnamed).map(|place| (place, reply.clone()));
        let mut left: Vec<_> = self.over.into_iter().chain(again).collect();
        left.sort_unstable_by_key(|(place, _)| *place);
        Judged { done: self.judged, left, may_go_on: true, limit: Some(self.taken) }
    }

    async fn dialogue(&mut self) -> Result<(), Stop> {
        if self.pipelined {
            let group = self.group();
            let written = self.session.wire.write(group.as_bytes(), self.deadline).await;
            written.map_err(|failure| silence("MAIL", &failure.error))?;
        }
        let greeted = self.mail().await?;
        self.recipients(greeted).await?;
        let accepted = greeted && !self.open.is_empty();
        if !accepted && !self.pipelined {
            self.session.must_reset = greeted;
            return Ok(());
        }
        self.stage = Stage::Data;
        let reply = self.exchange("DATA", DATA, self.timeouts.data).await?;
        match (reply.is_intermediate(), accepted) {
            (true, true) => self.transfer().await,
            (true, false) => self.transfer_nothing().await,
            (false, _) if reply.is_positive() => Err(Stop::OutOfStep),
            (false, _) => {
                self.expect_silence()?;
                if accepted {
                    self.judge_whole(&reply);
                }
                self.session.must_reset = greeted;
                Ok(())
            }
        }
    }

    /// Returns all commands up to DATA.
    fn group(&self) -> String {
        let mut group = String::with_capacity(COMMAND * (self.sent.len() + 2));
        self.write_mail(&mut group);
        self.sent.iter().for_each(|place| self.write_rcpt(&mut group, *place));
        group.push_str(DATA);
        group
    }

    fn write_mail(&self, out: &mut String) {
        write_path(out, "MAIL FROM:<", self.message.envelope.from.as_ref());
        if self.session.offer.size {
            write_parameter(out, MailParameter::Size(size(self.message.mime)));
        }
        if self.message.eight_bit != EightBit::Nowhere && self.session.offer.eight_bit_mime() {
            write_parameter(out, MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        if self.smtputf8 {
            write_parameter(out, MailParameter::SmtpUtfEight);
        }
        if let Some(dsn) = self.dsn() {
            for parameter in dsn::mail_parameters(dsn) {
                write_parameter(out, parameter);
            }
        }
        out.push_str("\r\n");
    }

    fn write_rcpt(&self, out: &mut String, index: usize) {
        let to = &self.message.envelope.to[index];
        write_path(out, "RCPT TO:<", Some(to));
        if let Some(dsn) = self.dsn() {
            for parameter in dsn::rcpt_parameters(dsn, to) {
                write_parameter(out, parameter);
            }
        }
        out.push_str("\r\n");
    }

    /// Returns the notifications to request, if the server supports them.
    fn dsn(&self) -> Option<&'a Dsn> {
        self.message.envelope.dsn.as_ref().filter(|_| self.session.offer.dsn)
    }

    /// Sends MAIL; returns whether it was accepted. A refusal applies to all recipients.
    async fn mail(&mut self) -> Result<bool, Stop> {
        let wait = self.deadline.min(Instant::now() + self.timeouts.mail);
        let mut sent = Ok(());
        if !self.pipelined {
            let mut command = String::with_capacity(COMMAND);
            self.write_mail(&mut command);
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
            // The session has carried as many messages as the server allows; a new one may carry this message.
            Ok(reply) if self.session.mails > 1 && refusal::is_session_limit(&reply.to_reply()) => {
                self.session.may_part = !self.pipelined;
                Err(Stop::HungUp(reply.to_reply()))
            }
            Ok(reply) => {
                self.judge_whole(&reply);
                Ok(false)
            }
        }
    }

    /// Sends RCPT for each recipient. A refusal applies to that recipient, unless it is only because of their number.
    async fn recipients(&mut self, greeted: bool) -> Result<(), Stop> {
        if !greeted && !self.pipelined {
            return Ok(());
        }
        if greeted {
            self.stage = Stage::Rcpt;
        }
        for position in 0..self.sent.len() {
            let place = self.sent[position];
            let mut command = String::new();
            if !self.pipelined {
                self.write_rcpt(&mut command, place);
            }
            let reply = self.exchange("RCPT", &command, self.timeouts.rcpt).await?;
            if reply.is_intermediate() {
                return Err(Stop::OutOfStep);
            }
            if reply.is_positive() {
                self.taken += 1;
            } else if greeted {
                self.open.retain(|open| *open != place);
                let reply = reply.to_reply();
                if (position > 0 || self.is_further) && refusal::is_recipient_limit(&reply) {
                    self.over.push((place, Judgement::new(Verdict::Temporary, self.stage, reply)));
                } else {
                    self.judged.push((place, Judgement::new(refusal::verdict(&reply), self.stage, reply)));
                }
            }
        }
        Ok(())
    }

    /// Sends the message and the final dot, and reads the reply.
    async fn transfer(&mut self) -> Result<(), Stop> {
        self.expect_silence()?;
        let watch = self.watch;
        if !watch.before_text(&self.open).await {
            return Err(Stop::CalledOff);
        }
        let (wire, patience) = (&mut self.session.wire, self.timeouts.quit);
        if let Err(failure) = body::send(wire, self.message.mime, self.timeouts, self.watch).await {
            let BodyError::Failed { uncertain, error } = failure else { return Err(Stop::CalledOff) };
            // A server that closes the connection has often sent the reason, and may have accepted a message that it
            // received whole.
            let said = wire.final_reply(Instant::now() + patience, patience).await;
            let (stage, verdict, reply) = match said {
                Ok(FinalReply { reply, .. }) if reply.code >= 400 => {
                    let reply = reply.to_reply();
                    (Stage::Data, refusal::verdict(&reply), reply)
                }
                Ok(FinalReply { reply, .. }) if uncertain => (Stage::FinalDot, Verdict::Accepted, reply.to_reply()),
                _ if uncertain => (Stage::FinalDot, Verdict::Uncertain, ours("the final dot", &error)),
                _ => (Stage::Data, Verdict::Temporary, ours("the message text", &error)),
            };
            self.stage = stage;
            return Err(Stop::Rest(verdict, reply));
        }
        self.stage = Stage::FinalDot;
        match wire.final_reply(Instant::now() + self.timeouts.final_dot, patience).await {
            Err(error) => Err(Stop::Rest(Verdict::Uncertain, ours("the final dot", &error))),
            Ok(FinalReply { reply, .. }) if reply.closes() => Err(Stop::Rest(Verdict::Temporary, reply.to_reply())),
            Ok(FinalReply { reply, is_clean }) => {
                self.judge_whole(&reply);
                self.session.broken |= !is_clean;
                Ok(())
            }
        }
    }

    /// Sends an empty message after all recipients were refused; the reply concerns no one (RFC 2920 §3.1).
    async fn transfer_nothing(&mut self) -> Result<(), Stop> {
        self.pipelined = false;
        self.exchange("the final dot", ".\r\n", self.timeouts.data).await?;
        Ok(())
    }

    /// Returns an error if there is an extra reply, which would be taken for the reply to the next command. Only 421
    /// may come unsolicited (RFC 5321 §3.8).
    fn expect_silence(&mut self) -> Result<(), Stop> {
        match self.session.wire.leftovers() {
            [] => Ok(()),
            [b'4', b'2', b'1', ..] => {
                self.session.broken = true;
                Ok(())
            }
            _ => Err(Stop::OutOfStep),
        }
    }

    /// Sends a command, unless it was part of the group, and reads its reply.
    async fn exchange(&mut self, stage: &str, command: &str, wait: Duration) -> Result<RawReply, Stop> {
        let deadline = self.deadline.min(Instant::now() + wait);
        let lost = |error: &WireError| Stop::Rest(Verdict::Temporary, ours(stage, error));
        if !self.pipelined {
            self.expect_silence()?;
            let written = self.session.wire.write(command.as_bytes(), deadline).await;
            written.map_err(|failure| lost(&failure.error))?;
        }
        let reply = self.session.wire.reply(deadline).await.map_err(|error| lost(&error))?;
        if reply.closes() { Err(Stop::Rest(Verdict::Temporary, reply.to_reply())) } else { Ok(reply) }
    }

    /// Gives this reply to all recipients that were not refused.
    fn judge_whole(&mut self, reply: &RawReply) {
        let reply = reply.to_reply();
        let is_positive = reply.code.is_some_and(|code| (200..300).contains(&code));
        let verdict = if is_positive { Verdict::Accepted } else { refusal::verdict(&reply) };
        self.whole = Some(Judgement::new(verdict, self.stage, reply));
    }
}

/// Writes a command's verb and its path, which is empty without an address.
fn write_path(out: &mut String, verb: &str, address: Option<&Address>) {
    out.push_str(verb);
    if let Some(address) = address {
        out.push_str(address.local());
        out.push('@');
        out.push_str(address.domain());
    }
    out.push('>');
}

fn write_parameter(out: &mut String, parameter: impl Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, " {parameter}");
}

fn ours(stage: &str, error: &WireError) -> Reply {
    Reply::ours_with(4, 4, 2, format!("at {stage}: {error}"))
}

/// Classifies a missing reply to MAIL.
fn silence(stage: &str, error: &WireError) -> Stop {
    let reply = ours(stage, error);
    if error.is_hangup() { Stop::HungUp(reply) } else { Stop::Rest(Verdict::Temporary, reply) }
}
