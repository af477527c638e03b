//! The requests. Each connection builds one request, and writes the next message's number over the previous one. Also
//! parses the numbers for the sink. With `--batch` and `--bulk`, the messages of a request have successive numbers.
//!
//! A message's number is in the header `X-Bench-Id` and in the address of each of its recipients,
//! `nNUMBER.POSITION@dDOMAIN.bench.test`, so that the sink can check that each recipient gets its own message. The
//! messages of a bulk share their custom headers, so the sink reads the number of such a message from the header `To`.
//! With `--template`, the number is also a variable, and part of the rendered subject.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;

use crate::bench::options::{Form, Options};

/// The sender's domain.
pub(in crate::bench) const SENDER_DOMAIN: &str = "sender.bench.test";
/// The parent domain of the recipients' domains.
pub(in crate::bench) const RECIPIENTS: &str = "bench.test";
/// The header with the message's number.
pub(in crate::bench) const HEADER: &str = "X-Bench-Id";
/// The alias of the template.
pub(in crate::bench) const TEMPLATE: &str = "bench";

/// Digits of a message's number.
const DIGITS: usize = 10;
/// Placeholders, each as long as the text that replaces it in every message.
pub(super) const NUMBER: &str = "@@NUMBER@@";
const DOMAIN: &str = "@@DOM@";
const FILE: &str = "@@FILE_START@@@@";
/// The template variable that is the same in all messages.
const ITEMS: &str =
    r#""items":[{"title":"Tea","price":"4.20"},{"title":"Coffee","price":"6.50"},{"title":"Cups","price":"19"}]"#;
/// Minimum size of the part after a request's last number to be kept and sent separately. If it is smaller, one write
/// is cheaper.
const SHARED_FROM: usize = 16 << 10;

/// A request for a message, a batch or a bulk.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Request {
    /// The part that differs between requests.
    own: Vec<u8>,
    /// The rest, which is the same in all requests; it may be empty.
    shared: Arc<[u8]>,
    messages: Vec<Places>,
    domain_count: u64,
    /// The API keys, all of the same length, of which each request has the next one.
    keys: Arc<[String]>,
    /// The position of the key in the request.
    key_at: usize,
}

/// The positions of a message's number, its domain and the start of its file in the request.
#[derive(Debug, Clone)]
pub(super) struct Places {
    numbers: Vec<usize>,
    domains: Vec<usize>,
    file: Option<usize>,
}

impl Places {
    /// Finds the placeholders of a message without a file.
    pub(super) fn find(text: &[u8]) -> Self {
        let all = |mark: &str| memmem::find_iter(text, mark).collect();
        Self { numbers: all(NUMBER), domains: all(DOMAIN), file: None }
    }

    /// Writes a message's number and its domain.
    pub(super) fn write(&self, text: &mut [u8], number: u64, domain_count: u64) {
        let (digits, domain) = (format!("{number:010}"), format!("d{:05}", number % domain_count));
        for at in &self.numbers {
            text[*at..*at + DIGITS].copy_from_slice(digits.as_bytes());
        }
        for at in &self.domains {
            text[*at..*at + DOMAIN.len()].copy_from_slice(domain.as_bytes());
        }
    }
}

impl Request {
    /// Builds a request of this form, for an API at `host` and with these keys in turn.
    pub(in crate::bench) fn new(options: &Options, form: Form, host: &str, keys: &Arc<[String]>) -> Self {
        let count = usize::from(form.messages());
        let (path, body) = match form {
            Form::Single => ("/v1/messages", message(options)),
            Form::Batch(_) => ("/v1/messages/batch", format!("[{}]", vec![message(options); count].join(","))),
            Form::Bulk(_) => ("/v1/messages/bulk", bulk(options, count)),
        };
        let key = keys.first().map_or("", String::as_str);
        let before_key = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer ");
        let key_at = before_key.len();
        let head =
            format!("{before_key}{key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut own = [head, body].concat().into_bytes();
        let all = |mark: &str| memmem::find_iter(&own, mark).collect::<Vec<_>>();
        let (numbers, domains, files) = (all(NUMBER), all(DOMAIN), all(FILE));
        // All messages are the same here, so each has the same number of placeholders; a bulk has one file.
        let part = |marks: &[usize], n: usize| marks.chunks(marks.len() / count).nth(n).unwrap_or_default().to_vec();
        let places = |n| Places { numbers: part(&numbers, n), domains: part(&domains, n), file: files.get(n).copied() };
        let messages = (0..count).map(places).collect();
        let last_file = files.last().map(|at| at + FILE.len());
        let last = numbers.last().copied().into_iter().chain(last_file).max().unwrap_or(0) + DIGITS;
        let mut shared: Arc<[u8]> = Arc::default();
        if own.len() > last + SHARED_FROM {
            shared = own.split_off(last).into();
        }
        let (domain_count, keys) = (options.domains.into(), keys.clone());
        let mut request = Self { own, shared, messages, domain_count, keys, key_at };
        request.starting_at(0);
        if options.same_attachment {
            // From now on, the files do not change.
            request.copy_first_file();
        }
        request
    }

    /// Returns the request for the message with this number, or for a batch or bulk that starts with it, in two parts,
    /// which are sent one after the other.
    pub(in crate::bench) fn starting_at(&mut self, first: u64) -> (&[u8], &[u8]) {
        for (number, places) in (first..).zip(&self.messages) {
            places.write(&mut self.own, number, self.domain_count);
            if let Some(at) = places.file {
                self.own[at..at + FILE.len()].copy_from_slice(file_start(number).as_bytes());
            }
        }
        let request = usize::try_from(first).unwrap_or(0) / self.messages.len().max(1);
        if let Some(key) = self.keys.get(request % self.keys.len().max(1)) {
            self.own[self.key_at..self.key_at + key.len()].copy_from_slice(key.as_bytes());
        }
        (&self.own, &self.shared)
    }

    /// Gives all messages the file of the first message, in this request and all later ones.
    fn copy_first_file(&mut self) {
        for at in self.messages.iter_mut().filter_map(|places| places.file.take()) {
            self.own[at..at + FILE.len()].copy_from_slice(file_start(0).as_bytes());
        }
    }
}

/// Returns the start of a message's file in base64.
fn file_start(number: u64) -> String {
    STANDARD.encode(format!("{number:012}"))
}

/// Returns the JSON of a message, with the attachment last.
fn message(options: &Options) -> String {
    let to: Vec<String> = (0..options.recipients).map(|position| format!("\"{}\"", address(position))).collect();
    let variables = format!("{},{ITEMS}", own_variables());
    format!(
        "{{\"to\":[{}],\"headers\":{{\"{HEADER}\":\"{NUMBER}\"}},{}}}",
        to.join(","),
        content(options, &format!("Bench {NUMBER}"), &variables)
    )
}

/// Returns the JSON of a bulk to this many recipients, with the recipients first and the attachment last.
fn bulk(options: &Options, count: usize) -> String {
    let variables = if options.template { format!(",\"variables\":{{{}}}", own_variables()) } else { String::new() };
    let recipient = format!("{{\"to\":\"{}\"{variables}}}", address(0));
    let recipients = vec![recipient; count].join(",");
    format!("{{\"recipients\":[{recipients}],{}}}", content(options, "Bench", ITEMS))
}

/// Returns the address of the recipient at this position.
pub(super) fn address(position: u16) -> String {
    format!("n{NUMBER}.{position:03}@{DOMAIN}.{RECIPIENTS}")
}

/// Returns the variables that differ between messages, as entries of a JSON object.
fn own_variables() -> String {
    format!("\"name\":\"Ann {NUMBER}\",\"number\":\"{NUMBER}\"")
}

/// Returns the sender and the content as entries of a JSON object, with the attachment last: the template with these
/// variables, or this subject and a text.
fn content(options: &Options, subject: &str, variables: &str) -> String {
    let body = if options.template {
        format!("\"template\":{{\"id\":\"{TEMPLATE}\",\"variables\":{{{variables}}}}}")
    } else {
        let text = text(options.size as usize).replace('\n', "\\n");
        format!("\"subject\":\"{subject}\",\"text\":\"{text}\"")
    };
    let mut fields = format!("\"from\":\"Bench <bench@{SENDER_DOMAIN}>\",{body}");
    if options.attachment > 0 {
        let start = FILE.len() / 4 * 3;
        let rest = noise((options.attachment as usize).saturating_sub(start));
        fields.push_str(",\"attachments\":[{\"filename\":\"bench.bin\",\"content\":\"");
        fields.push_str(FILE);
        fields.push_str(&STANDARD.encode(rest));
        fields.push_str("\"}]");
    }
    fields
}

/// Returns text of this size in bytes, in lines of words, which compresses about as well as email.
pub(in crate::bench) fn text(size: usize) -> String {
    const WORDS: [&str; 32] = [
        "invoice", "order", "the", "your", "of", "to", "and", "we", "shipped", "payment", "account", "please", "visit",
        "thank", "you", "for", "is", "in", "a", "will", "arrive", "on", "Monday", "confirm", "address", "team", "with",
        "regards", "number", "support", "question", "any",
    ];
    let (mut text, mut column, mut random) = (String::with_capacity(size + 16), 0, Random(size as u64));
    while text.len() < size {
        let word = WORDS[usize::from(random.next() % 32)];
        column += word.len() + 1;
        text.push_str(word);
        text.push(if column > 64 { '\n' } else { ' ' });
        column = if column > 64 { 0 } else { column };
    }
    text.truncate(size);
    text
}

/// Returns incompressible bytes.
fn noise(size: usize) -> Vec<u8> {
    let mut random = Random(size as u64);
    (0..size).map(|_| random.next()).collect()
}

/// A pseudo-random generator with a fixed seed, so that all runs send the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}

/// The recipient that an address identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Recipient {
    /// The recipient at this position of the message with this number.
    Numbered { number: u64, position: u16 },
    /// A recipient of the backlog.
    Backlog(u64),
    /// Not an address that the bench sends to.
    Unknown,
}

/// Parses an address, which may be incomplete.
pub(in crate::bench) fn recipient(address: &[u8]) -> Recipient {
    let read = || {
        let (kind, rest) = address.split_first()?;
        let digits = rest.get(..DIGITS)?;
        match kind {
            b'n' if rest.get(DIGITS) == Some(&b'.') => {
                let position = u16::try_from(digits_of(rest.get(DIGITS + 1..DIGITS + 4)?)?).ok()?;
                Some(Recipient::Numbered { number: digits_of(digits)?, position })
            }
            b'w' => Some(Recipient::Backlog(digits_of(digits)?)),
            _ => None,
        }
    };
    read().unwrap_or(Recipient::Unknown)
}

/// Returns the local part of a recipient of the backlog.
pub(in crate::bench) fn backlog_local_part(number: u64) -> String {
    format!("w{number:010}")
}

/// Returns the number in a message's header, given the beginning of the message. Without `X-Bench-Id`, returns the
/// number in the address in `To`.
pub(in crate::bench) fn number(head: &[u8]) -> Option<u64> {
    match memmem::find(head, HEADER.as_bytes()) {
        Some(at) => number_at(head, at + HEADER.len() + 2),
        None => number_after(head, b"\nTo: n"),
    }
}

/// Returns the number in a message's subject, given the beginning of the message.
pub(in crate::bench) fn subject_number(head: &[u8]) -> Option<u64> {
    number_after(head, b"\nSubject: Bench ")
}

fn number_after(head: &[u8], mark: &[u8]) -> Option<u64> {
    number_at(head, memmem::find(head, mark)? + mark.len())
}

fn number_at(head: &[u8], at: usize) -> Option<u64> {
    digits_of(head.get(at..at + DIGITS)?)
}

fn digits_of(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::bench::options::tests::options;

    fn request(line: &str) -> Request {
        let options = options(line);
        let keys: Arc<[String]> = Arc::new(["pr_key1".to_owned(), "pr_key2".to_owned()]);
        Request::new(&options, options.form(), "127.0.0.1:1", &keys)
    }

    #[test]
    fn requests_have_the_keys_in_turn() {
        for (line, step) in [("", 1), ("--batch 3", 3)] {
            let mut request = request(line);
            for (n, key) in ["pr_key1", "pr_key2", "pr_key1"].into_iter().enumerate() {
                let (own, _) = request.starting_at(n as u64 * step);
                let header = format!("Authorization: Bearer {key}\r\n");
                assert!(memmem::find(own, header.as_bytes()).is_some(), "{line} {n}");
            }
        }
    }

    /// The JSON of a request.
    fn sent(request: &mut Request, number: u64) -> Value {
        let (own, shared) = request.starting_at(number);
        let whole = [own, shared].concat();
        let end = memmem::find(&whole, b"\r\n\r\n").unwrap() + 4;
        let length = format!("Content-Length: {}\r\n", whole.len() - end);
        assert!(memmem::find(&whole[..end], length.as_bytes()).is_some(), "{length}");
        serde_json::from_slice(&whole[end..]).unwrap()
    }

    fn file(message: &Value) -> Vec<u8> {
        STANDARD.decode(message["attachments"][0]["content"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn each_request_has_the_number_of_its_message() {
        let mut request = request("--size 3000 --recipients 2 --domains 7 --attachment 50000");
        assert!(request.shared.len() > SHARED_FROM);
        let (first, second) = (sent(&mut request, 8), sent(&mut request, 4_000_000_001));
        assert_eq!(first["to"][1], "n0000000008.001@d00001.bench.test");
        assert_eq!(
            (&second["headers"][HEADER], &second["subject"]),
            (&"4000000001".into(), &"Bench 4000000001".into())
        );
        assert_eq!((second["text"].as_str().unwrap().len(), file(&second).len()), (3_000, 50_000));
        assert_ne!(file(&first), file(&second));
        let mut same = super::tests::request("--attachment 1000 --same-attachment");
        assert_eq!(file(&sent(&mut same, 1)), file(&sent(&mut same, 2)));
    }

    #[test]
    fn each_message_of_a_batch_has_its_own_number() {
        let mut request = request("--batch 3 --recipients 2 --domains 2 --attachment 50000");
        for first in [0, 7] {
            let messages = sent(&mut request, first);
            let messages = messages.as_array().unwrap();
            let ids: Vec<&str> = messages.iter().map(|message| message["headers"][HEADER].as_str().unwrap()).collect();
            assert_eq!(ids, [0, 1, 2].map(|n| format!("{:010}", first + n)));
            assert_eq!(messages[2]["to"][1], format!("n{:010}.001@d{:05}.bench.test", first + 2, first % 2));
            assert_ne!(file(&messages[0]), file(&messages[1]));
        }
        let same = sent(&mut super::tests::request("--batch 2 --attachment 1000 --same-attachment"), 5);
        assert_eq!((file(&same[0]), &same[1]["headers"][HEADER]), (file(&same[1]), &"0000000006".into()));
    }

    #[test]
    fn each_recipient_of_a_bulk_has_its_own_number() {
        let mut request = request("--bulk 3 --domains 2 --size 3000 --attachment 50000 --same-attachment");
        assert!(request.shared.len() > SHARED_FROM);
        let mut files = Vec::new();
        for first in [0, 7] {
            let bulk = sent(&mut request, first);
            let recipients = bulk["recipients"].as_array().unwrap();
            let to: Vec<&str> = recipients.iter().map(|recipient| recipient["to"].as_str().unwrap()).collect();
            let expected = [0, 1, 2].map(|n| format!("n{:010}.000@d{:05}.bench.test", first + n, (first + n) % 2));
            assert_eq!(to, expected);
            assert_eq!((bulk["text"].as_str().unwrap().len(), &bulk["headers"]), (3_000, &Value::Null));
            files.push(file(&bulk));
        }
        assert_eq!(files[0], files[1]);
    }

    #[test]
    fn each_message_with_a_template_has_its_own_variables() {
        let message = sent(&mut request("--template --recipients 2"), 5);
        assert_eq!((&message["subject"], &message["text"]), (&Value::Null, &Value::Null));
        assert_eq!((&message["template"]["id"], &message["headers"][HEADER]), (&"bench".into(), &"0000000005".into()));
        let variables = &message["template"]["variables"];
        assert_eq!((&variables["number"], &variables["name"]), (&"0000000005".into(), &"Ann 0000000005".into()));
        assert_eq!(variables["items"][2]["title"], "Cups");

        let batch = sent(&mut request("--template --batch 2"), 5);
        assert_eq!(batch[1]["template"]["variables"]["number"], "0000000006");
        let bulk = sent(&mut request("--template --bulk 2"), 5);
        assert_eq!(bulk["recipients"][1]["variables"]["number"], "0000000006");
        let common = bulk["template"]["variables"].as_object().unwrap();
        assert_eq!(common.keys().collect::<Vec<_>>(), ["items"]);
    }

    #[test]
    fn numbers_in_requests_are_parsed() {
        let mut request = request("--recipients 3");
        let message = sent(&mut request, 42);
        let address = message["to"][2].as_str().unwrap();
        assert_eq!(recipient(address.as_bytes()), Recipient::Numbered { number: 42, position: 2 });
        assert_eq!(recipient(backlog_local_part(7).as_bytes()), Recipient::Backlog(7));
        for address in ["", "n", "n00000000x2.000@", "n0000000042", "ann@example.test", "w12"] {
            assert_eq!(recipient(address.as_bytes()), Recipient::Unknown, "{address}");
        }
        assert_eq!(number(b"Subject: x\r\nX-Bench-Id: 0000000042\r\n"), Some(42));
        assert_eq!(number(b"X-Bench-Id: 42"), None);
    }

    #[test]
    fn number_of_a_message_of_a_bulk_is_parsed() {
        let head = b"Subject: x\r\nTo: n0000000042.000@d00000.bench.test\r\nSubject: Bench 0000000043\r\n";
        assert_eq!((number(head), subject_number(head)), (Some(42), Some(43)));
        assert_eq!(number(b"Date: x\r\nTo: w0000000042@d00000.bench.test\r\n"), None);
        // The header takes precedence, even if it is not valid.
        assert_eq!(number(b"X-Bench-Id: 4\r\nTo: n0000000042.000@d00000.bench.test\r\n"), None);
    }
}
