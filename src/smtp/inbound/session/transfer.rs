//! Receives messages: after DATA (RFC 5321 §4.1.1.4), or in chunks (BDAT, RFC 3030).

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::super::chunk::ChunkReader;
use super::super::command::{BdatCommand, MailCommand};
use super::super::data::{DataFault, DataReader};
use super::super::limits::memory::ReservedMemory;
use super::super::{Handler, ReceivedMessage};
use super::{Next, Session, Transaction};

/// Bytes of an oversized message that are read beyond twice the maximum size, so that the client gets the refusal.
const MAX_OVERRUN: usize = 1 << 20;

impl<S: AsyncRead + AsyncWrite + Unpin, H: Handler> Session<'_, S, H> {
    pub(super) async fn data(&mut self) -> io::Result<Next> {
        // Until the message ends, no input may be parsed as a command, so an error must leave no open transaction.
        let Some(open) = self.mail.take_if(|open| open.chunks.is_none()) else {
            return Ok(self.refuse(503, "5.5.1 Send MAIL first"));
        };
        if open.to.is_empty() {
            self.mail = Some(open);
            return Ok(self.refuse(554, "5.5.1 No valid recipients"));
        }
        self.wire.reply(354, "End the message with a dot alone on a line");
        let (received, mut memory) = self.read_message(self.max_stored(&open.to)).await?;
        memory.keep();
        self.process(open.mail, open.to, received).await
    }

    /// Passes a whole message to the handler, and sends its reply.
    async fn process(
        &mut self,
        mail: MailCommand,
        to: Vec<String>,
        received: Result<Vec<u8>, DataFault>,
    ) -> io::Result<Next> {
        self.message_deadline = Instant::now() + self.settings.idle_timeout;
        let data = match received {
            Ok(data) => data,
            Err(fault) => return Ok(self.refuse_message(&mail.from, &to, fault)),
        };
        let helo = self.helo.clone().unwrap_or_default();
        let (peer, is_secure, smtputf8) = (self.peer, self.is_secure, mail.smtputf8);
        let message = ReceivedMessage { helo, from: mail.from, to, peer, is_secure, smtputf8, data };
        match self.handler.message(self.identity.as_ref(), message).await {
            Ok(text) => {
                self.errors = 0;
                Ok(self.ok(&format!("2.0.0 {text}")))
            }
            Err(refusal) => Ok(self.refuse_with(&refusal)),
        }
    }

    /// Refuses a message whose recipients were accepted.
    fn refuse_message(&mut self, from: &str, to: &[String], fault: DataFault) -> Next {
        self.client.log_refused_content(self.peer, fault, (from, to), Instant::now());
        let (code, text) = match fault {
            DataFault::TooBig => (552, "5.3.4 The message is too big"),
            DataFault::BareLineBreak => (550, "5.5.2 The message contains a bare CR or LF; use CRLF"),
            DataFault::NoMemory => (452, "4.3.1 Too many large messages at once, try again later"),
        };
        self.refuse(code, text)
    }

    /// Reads a message up to its final dot. The memory is released when the second value is dropped.
    async fn read_message(&mut self, max_stored: usize) -> io::Result<(Result<Vec<u8>, DataFault>, ReservedMemory)> {
        let deadline = Instant::now() + self.settings.data_timeout;
        let mut reader = DataReader::new(self.settings.max_message, max_stored);
        let mut memory = self.reserved_memory();
        let mut budget = self.max_read();
        self.wire.flush(deadline).await?;
        loop {
            let (used, done) = reader.push(&self.wire.input);
            self.wire.input.drain(..used);
            if done {
                return Ok((reader.finish(), memory));
            }
            budget = budget.saturating_sub(used);
            if budget == 0 {
                self.wire.reply(552, "5.3.4 The message is too big");
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !memory.grow(reader.capacity(), deadline).await {
                reader.refuse(DataFault::NoMemory);
                memory.release();
            }
            tokio::select! {
                biased;
                () = memory.reclaimed() => {
                    reader.refuse(DataFault::NoMemory);
                    memory.release();
                }
                filled = self.wire.fill(deadline) => filled?,
            }
        }
    }

    /// Returns the memory of a message that begins.
    fn reserved_memory(&self) -> ReservedMemory {
        ReservedMemory::new(self.settings.memory.clone(), self.client.network())
    }

    /// Returns how many bytes of a message to these recipients are stored at most.
    fn max_stored(&self, to: &[String]) -> usize {
        self.settings.max_stored.min(self.handler.max_stored(to))
    }

    /// Returns the maximum number of bytes that are read of a message, most of which are discarded.
    fn max_read(&self) -> usize {
        self.settings.max_message.saturating_mul(2).saturating_add(MAX_OVERRUN)
    }

    /// Reads a chunk of a message. The chunk of a refused command is read too and discarded, so that its bytes are never
    /// parsed as commands.
    pub(super) async fn bdat(&mut self, BdatCommand { size, is_last }: BdatCommand) -> io::Result<Next> {
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= self.max_read()) else {
            self.refuse(552, "5.3.4 The message is too big");
            return Ok(Next::Quit);
        };
        let Some(mut open) = self.mail.take_if(|open| !open.to.is_empty()) else {
            self.read_chunk(size, None).await?;
            return Ok(match self.mail {
                Some(_) => self.refuse(554, "5.5.1 No valid recipients"),
                None => self.refuse(503, "5.5.1 Send MAIL first"),
            });
        };
        let max_stored = self.max_stored(&open.to);
        let new = || (ChunkReader::new(self.settings.max_message, max_stored), self.reserved_memory());
        let mut chunks = open.chunks.take().unwrap_or_else(new);
        self.read_chunk(size, Some(&mut chunks)).await?;
        let (reader, mut memory) = chunks;
        if is_last {
            memory.keep();
            let next = self.process(open.mail, open.to, reader.finish()).await;
            drop(memory);
            return next;
        }
        // The transaction ends. Chunks that the client has sent already are refused.
        if let Some(fault) = reader.fault() {
            return Ok(self.refuse_message(&open.mail.from, &open.to, fault));
        }
        if size > 0 {
            self.commands = 0;
        }
        self.mail = Some(Transaction { chunks: Some((reader, memory)), ..open });
        Ok(self.ok(&format!("2.0.0 {size} bytes received")))
    }

    /// Reads the bytes of a chunk, and adds them to `chunks`, or discards them.
    async fn read_chunk(
        &mut self,
        size: usize,
        mut chunks: Option<&mut (ChunkReader, ReservedMemory)>,
    ) -> io::Result<()> {
        let deadline = Instant::now() + self.settings.data_timeout;
        let mut left = size;
        loop {
            let used = left.min(self.wire.input.len());
            if let Some((reader, memory)) = &mut chunks {
                reader.push(self.wire.input.get(..used).unwrap_or_default());
                if !memory.grow(reader.capacity(), deadline).await {
                    reader.refuse(DataFault::NoMemory);
                    memory.release();
                }
            }
            self.wire.input.drain(..used);
            left -= used;
            if left == 0 {
                return Ok(());
            }
            self.wire.flush(deadline).await?;
            let Some((reader, memory)) = &mut chunks else {
                self.wire.fill(deadline).await?;
                continue;
            };
            tokio::select! {
                biased;
                () = memory.reclaimed() => {
                    reader.refuse(DataFault::NoMemory);
                    memory.release();
                }
                filled = self.wire.fill(deadline) => filled?,
            }
        }
    }
}
