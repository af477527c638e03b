//! One message over one session: MAIL, RCPT, DATA, the text, the final dot (RFC 5321 §3.3). The commands up to DATA are
//! sent in one write if the server supports pipelining (RFC 2920).
//!
//! A recipient that was refused at RCPT is judged by that reply, all others by the replies to the commands that concern
//! the whole transaction (MAIL, DATA and the final dot). Recipients beyond the server's limit are left for the next
//! transaction (RFC 5321 §4.5.3.1.10). The connection may fail anywhere; only [`Transaction::transfer`] judges a
//! failure during the text.

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
use crate::domain::bounce::verdict;
use crate::domain::outcome::{Reply, Stage, Verdict};
use crate::telemetry::traces;
use body::BodyError;
use preflight::{preflight, size};

/// Maximum recipients of a pipelined group. With more, each side could wait for the other to read (RFC 2920 §3.1).
const PIPELINE_LIMIT: usize = 200;

const DATA: &str = "DATA\r\n";
/// Approximate length of a command in bytes.
const COMMAND: usize = 96;

/// Time that each recipient adds to the time limit of all commands of a message.
const RECIPIENT_TIME: Duration = Duration::from_secs(10);

/// Sends one message to the recipients of the batch. Marks the session as broken if it cannot continue.
pub(in crate::smtp) async fn run(
    session: &mut Session,
    message: OutgoingMessage<'_>,
    batch: Batch<'_>,
    timeouts: &Timeouts,
    guard: &dyn SendGuard,
) -> Ending {
    // The conversation of the first message includes the opening of the session.
    if session.messages > 0 {
        session.wire.transcript.restart();
    }
    session.messages += 1;
    let mut transaction = Transaction::new(session, message, batch, timeouts, guard);
    let stopped = if transaction.open.is_empty() { Ok(()) } else { transaction.run_commands().await };
    transaction.session.broken |= stopped.is_err();
    transaction.note(&stopped);
    let shared = match stopped {
        Ok(()) => None,
        Err(Stop::ServerClosed(reply)) => return Ending::ServerClosed(reply),
        Err(Stop::Withdrawn) => return Ending::Withdrawn,
        Err(Stop::Judge(_, reply)) if transaction.hits_recipient_limit(&reply) => {
            let judgement = Judgement::new(Verdict::Temporary, Stage::Rcpt, reply);
            return Ending::Judged(transaction.leave_remaining(&judgement));
        }
        Err(Stop::Judge(verdict, reply)) => Some(Judgement::new(verdict, transaction.stage, reply)),
        Err(Stop::OutOfSync) => Some(transaction.discard_replies()),
    };
    transaction.session.mark_used();
    let without_tls = transaction.session.without_tls.clone();
    let mut judged = transaction.judged(shared);
    if let Some(why) = without_tls {
        judged.explain_missing_tls(&why);
    }
    Ending::Judged(judged)
}

/// Why the transaction stopped. The session cannot continue either.
enum Stop {
    ServerClosed(Reply),
    Withdrawn,
    /// All recipients without a judgement get this one.
    Judge(Verdict, Reply),
    /// The server sent an extra reply, so replies cannot be matched to commands. No text was sent.
    OutOfSync,
}

struct Transaction<'a> {
    session: &'a mut Session,
    message: OutgoingMessage<'a>,
    timeouts: &'a Timeouts,
    guard: &'a dyn SendGuard,
    is_continuation: bool,
    /// The current stage.
    stage: Stage,
    /// The recipients with a judgement.
    judged: Vec<(usize, Judgement)>,
    /// The recipients sent in RCPT.
    sent: Vec<usize>,
    /// The recipients in `sent` that were not refused.
    open: Vec<usize>,
    /// Number of recipients that the server accepted.
    accepted: usize,
    /// The recipients refused only because of their number.
    over_limit: Vec<(usize, Judgement)>,
    /// The recipients not sent in RCPT.
    not_sent: Vec<usize>,
    /// The judgement of all recipients that were not refused at RCPT.
    shared: Option<Judgement>,
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
        guard: &'a dyn SendGuard,
    ) -> Self {
        let to = &message.envelope.to;
        let (mut judged, mut sent) = (Vec::new(), Vec::with_capacity(batch.positions.len()));
        for &position in batch.positions {
            match preflight(&session.offer, message, &to[position]) {
                Some(judgement) => judged.push((position, judgement)),
                None => sent.push(position),
            }
        }
        let not_sent = sent.split_off(batch.max_recipients.min(sent.len()));
        let needs_smtputf8 = message.eight_bit == EightBit::Header
            || message.envelope.from.as_ref().is_some_and(Address::needs_smtputf8)
            || sent.iter().any(|position| to[*position].needs_smtputf8());
        let smtputf8 = session.offer.smtputf8() && needs_smtputf8;
        let pipelined = session.offer.pipelining && sent.len() <= PIPELINE_LIMIT;
        let recipients = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let time = timeouts.mail + timeouts.rcpt + timeouts.data + RECIPIENT_TIME.saturating_mul(recipients);
        let (stage, deadline) = (Stage::Mail, Instant::now() + time);
        Self {
            session,
            message,
            timeouts,
            guard,
            is_continuation: batch.is_continuation,
            stage,
            judged,
            open: sent.clone(),
            sent,
            accepted: 0,
            over_limit: Vec::new(),
            not_sent,
            shared: None,
            smtputf8,
            pipelined,
            deadline,
        }
    }

    /// Records why the transaction stopped, unless the server's reply says it.
    fn note(&self, stopped: &Result<(), Stop>) {
        let transcript = &self.session.wire.transcript;
        match stopped {
            Err(Stop::ServerClosed(reply) | Stop::Judge(_, reply)) if reply.code.is_none() => {
                transcript.note(&reply.text);
            }
            Err(Stop::OutOfSync) => transcript.note("the server sent an unexpected reply"),
            _ => {}
        }
    }

    /// Returns the result; recipients without a judgement get `stopped`.
    fn judged(mut self, stopped: Option<Judgement>) -> Judged {
        let is_stopped = stopped.is_some();
        let shared = self.shared.take().or(stopped);
        let allows_more = |shared: &Judgement| shared.verdict != Verdict::Temporary && shared.stage > Stage::Mail;
        let has_next_transaction = !is_stopped && shared.as_ref().is_none_or(allows_more);
        let unsent = || Judgement::new(Verdict::Temporary, self.stage, Reply::local_error("not sent"));
        let last = shared.unwrap_or_else(unsent);
        let limit = (!self.over_limit.is_empty()).then_some(self.accepted).filter(|accepted| *accepted > 0);
        self.judged.extend(self.open.iter().map(|position| (*position, last.clone())));
        // A reply to MAIL applies to all recipients; a later one only to those sent in RCPT.
        let others = match (last.stage, last.verdict, self.over_limit.first()) {
            (Stage::Mail, ..) | (_, Verdict::Temporary, _) => last,
            (.., Some((_, first))) => first.clone(),
            (..) => Judgement { verdict: Verdict::Temporary, ..last },
        };
        let mut left = self.over_limit;
        left.extend(self.not_sent.into_iter().map(|position| (position, others.clone())));
        left.sort_unstable_by_key(|(position, _)| *position);
        Judged { done: self.judged, left, has_next_transaction, limit }
    }

    /// Replaces the judgements made from replies that may belong to other commands. Returns the judgement of all other
    /// recipients.
    fn discard_replies(&mut self) -> Judgement {
        let why = "the server sent an unexpected reply";
        let unknown = Judgement::new(Verdict::Temporary, self.stage, Reply::local_error_with(4, 5, 0, why));
        let is_reply = |judgement: &&mut Judgement| judgement.reply.code.is_some();
        for judgement in self.judged.iter_mut().map(|(_, judgement)| judgement).filter(is_reply) {
            *judgement = unknown.clone();
        }
        unknown
    }

    /// Returns whether the server closed the connection because of the number of recipients, after it accepted some.
    fn hits_recipient_limit(&self, reply: &Reply) -> bool {
        self.stage == Stage::Rcpt && self.accepted > 0 && reply.code == Some(421) && verdict::is_recipient_limit(reply)
    }

    /// Leaves the remaining recipients for further transactions, with at most as many recipients as the server
    /// accepted.
    fn leave_remaining(self, judgement: &Judgement) -> Judged {
        let again = self.open.into_iter().chain(self.not_sent).map(|position| (position, judgement.clone()));
        let mut left: Vec<_> = self.over_limit.into_iter().chain(again).collect();
        left.sort_unstable_by_key(|(position, _)| *position);
        Judged { done: self.judged, left, has_next_transaction: true, limit: Some(self.accepted) }
    }

    async fn run_commands(&mut self) -> Result<(), Stop> {
        let span = traces::child("mail");
        if self.pipelined {
            let group = self.pipelined_commands();
            self.session.wire.transcript.sent(&group);
            let written = self.session.wire.write(group.as_bytes(), self.deadline).await;
            written.map_err(|failure| no_reply_to_mail(&failure.error))?;
        }
        let mail_accepted = self.mail().await?;
        self.recipients(mail_accepted).await?;
        let has_recipients = mail_accepted && !self.open.is_empty();
        if !has_recipients && !self.pipelined {
            self.session.must_reset = mail_accepted;
            return Ok(());
        }
        self.stage = Stage::Data;
        let reply = self.exchange("DATA", DATA, self.timeouts.data).await?;
        drop(span);
        match (reply.is_intermediate(), has_recipients) {
            (true, true) => self.transfer().await,
            (true, false) => self.transfer_empty().await,
            (false, _) if reply.is_positive() => Err(Stop::OutOfSync),
            (false, _) => {
                self.expect_no_leftovers()?;
                if has_recipients {
                    self.judge_open(&reply);
                }
                self.session.must_reset = mail_accepted;
                Ok(())
            }
        }
    }

    /// Returns all commands up to DATA.
    fn pipelined_commands(&self) -> String {
        let mut group = String::with_capacity(COMMAND * (self.sent.len() + 2));
        self.write_mail(&mut group);
        self.sent.iter().for_each(|position| self.write_rcpt(&mut group, *position));
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

    fn write_rcpt(&self, out: &mut String, position: usize) {
        let to = &self.message.envelope.to[position];
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
            self.session.wire.transcript.sent(&command);
            sent = self.session.wire.write(command.as_bytes(), wait).await.map_err(|failure| failure.error);
        }
        let reply = match sent {
            Ok(()) => self.session.wire.reply(wait).await,
            Err(error) => Err(error),
        };
        match reply {
            Err(error) => Err(no_reply_to_mail(&error)),
            Ok(reply) if reply.closes() => Err(Stop::ServerClosed(reply.to_reply())),
            Ok(reply) if reply.is_intermediate() => Err(Stop::Judge(Verdict::Temporary, reply.to_reply())),
            Ok(reply) if reply.is_positive() => Ok(true),
            // The session has carried as many messages as the server allows. A new session may carry this message.
            Ok(reply) if self.session.messages > 1 && verdict::is_session_limit(&reply.to_reply()) => {
                self.session.send_quit = !self.pipelined;
                Err(Stop::ServerClosed(reply.to_reply()))
            }
            Ok(reply) => {
                self.judge_open(&reply);
                Ok(false)
            }
        }
    }

    /// Sends RCPT for each recipient. A refusal applies to that recipient, unless it is only because of their number.
    async fn recipients(&mut self, mail_accepted: bool) -> Result<(), Stop> {
        if !mail_accepted && !self.pipelined {
            return Ok(());
        }
        if mail_accepted {
            self.stage = Stage::Rcpt;
        }
        for index in 0..self.sent.len() {
            let position = self.sent[index];
            let mut command = String::new();
            if !self.pipelined {
                self.write_rcpt(&mut command, position);
            }
            let reply = self.exchange("RCPT", &command, self.timeouts.rcpt).await?;
            if reply.is_intermediate() {
                return Err(Stop::OutOfSync);
            }
            if reply.is_positive() {
                self.accepted += 1;
            } else if mail_accepted {
                self.open.retain(|open| *open != position);
                let reply = reply.to_reply();
                if (index > 0 || self.is_continuation) && verdict::is_recipient_limit(&reply) {
                    self.over_limit.push((position, Judgement::new(Verdict::Temporary, self.stage, reply)));
                } else {
                    self.judged.push((position, Judgement::new(verdict::verdict(&reply), self.stage, reply)));
                }
            }
        }
        Ok(())
    }

    /// Sends the message and the final dot, and reads the reply.
    async fn transfer(&mut self) -> Result<(), Stop> {
        let _span = traces::child("data");
        self.expect_no_leftovers()?;
        let guard = self.guard;
        if !guard.may_send_text(&self.open).await {
            return Err(Stop::Withdrawn);
        }
        let (wire, grace) = (&mut self.session.wire, self.timeouts.quit);
        wire.transcript.sent_message(size(self.message.mime));
        if let Err(failure) = body::send(wire, self.message.mime, self.timeouts, self.guard).await {
            let BodyError::Failed { uncertain, error } = failure else { return Err(Stop::Withdrawn) };
            // A server that closes the connection has often sent the reason. If it received the whole message, it may
            // also have accepted it.
            let last_reply = wire.final_reply(Instant::now() + grace, grace).await;
            let (stage, verdict, reply) = match last_reply {
                Ok(FinalReply { reply, .. }) if reply.code >= 400 => {
                    let reply = reply.to_reply();
                    (Stage::Data, verdict::verdict(&reply), reply)
                }
                Ok(FinalReply { reply, .. }) if uncertain => (Stage::FinalDot, Verdict::Accepted, reply.to_reply()),
                _ if uncertain => (Stage::FinalDot, Verdict::Uncertain, connection_failed("the final dot", &error)),
                _ => (Stage::Data, Verdict::Temporary, connection_failed("the message text", &error)),
            };
            self.stage = stage;
            return Err(Stop::Judge(verdict, reply));
        }
        wire.transcript.sent(".");
        self.stage = Stage::FinalDot;
        match wire.final_reply(Instant::now() + self.timeouts.final_dot, grace).await {
            Err(error) => Err(Stop::Judge(Verdict::Uncertain, connection_failed("the final dot", &error))),
            Ok(FinalReply { reply, .. }) if reply.closes() => Err(Stop::Judge(Verdict::Temporary, reply.to_reply())),
            Ok(FinalReply { reply, is_clean }) => {
                self.judge_open(&reply);
                self.session.broken |= !is_clean;
                Ok(())
            }
        }
    }

    /// Sends an empty message after all recipients were refused. The reply concerns no recipient (RFC 2920 §3.1).
    async fn transfer_empty(&mut self) -> Result<(), Stop> {
        self.pipelined = false;
        self.exchange("the final dot", ".\r\n", self.timeouts.data).await?;
        Ok(())
    }

    /// Returns an error if there is an extra reply, which would be read as the reply to the next command. Only 421 may
    /// be unsolicited (RFC 5321 §3.8).
    fn expect_no_leftovers(&mut self) -> Result<(), Stop> {
        match self.session.wire.leftovers() {
            [] => Ok(()),
            [b'4', b'2', b'1', ..] => {
                self.session.broken = true;
                Ok(())
            }
            _ => Err(Stop::OutOfSync),
        }
    }

    /// Sends a command, unless it was part of the group, and reads its reply.
    async fn exchange(&mut self, stage: &str, command: &str, wait: Duration) -> Result<RawReply, Stop> {
        let deadline = self.deadline.min(Instant::now() + wait);
        let lost = |error: &WireError| Stop::Judge(Verdict::Temporary, connection_failed(stage, error));
        if !self.pipelined {
            self.expect_no_leftovers()?;
            self.session.wire.transcript.sent(command);
            let written = self.session.wire.write(command.as_bytes(), deadline).await;
            written.map_err(|failure| lost(&failure.error))?;
        }
        let reply = self.session.wire.reply(deadline).await.map_err(|error| lost(&error))?;
        if reply.closes() { Err(Stop::Judge(Verdict::Temporary, reply.to_reply())) } else { Ok(reply) }
    }

    /// Applies this reply to all recipients that were not refused before.
    fn judge_open(&mut self, reply: &RawReply) {
        let reply = reply.to_reply();
        let is_positive = reply.code.is_some_and(|code| (200..300).contains(&code));
        let verdict = if is_positive { Verdict::Accepted } else { verdict::verdict(&reply) };
        self.shared = Some(Judgement::new(verdict, self.stage, reply));
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

fn connection_failed(stage: &str, error: &WireError) -> Reply {
    Reply::local_error_with(4, 4, 2, format!("at {stage}: {error}"))
}

/// Classifies a missing reply to MAIL.
fn no_reply_to_mail(error: &WireError) -> Stop {
    let reply = connection_failed("MAIL", error);
    if error.is_disconnect() { Stop::ServerClosed(reply) } else { Stop::Judge(Verdict::Temporary, reply) }
}
