//! Writes the translation of a request, within its maximum size.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::attachment::{Attachment, Source};
use super::{Download, Options, Translation, read_item, schedule, test_addresses};
use crate::accept::request::batch::Refused;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::raw_list::RawList;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::TemplateId;
use crate::domain::key::hex;
use crate::http::resend::times;

/// A translation may be larger than the body by this many bytes: it names parts, and replaces addresses and times.
const OVERHEAD: usize = 64 << 10;
/// Maximum number of attachments of a message; the configured maximum is not larger.
const MAX_ATTACHMENTS: usize = 1_000;
/// Maximum length of `scheduled_at` in JSON. Copying a longer text would only take memory.
const MAX_TIME: usize = 1_000;

/// One message of a request. Unknown members are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Email<'a> {
    #[serde(borrow, default)]
    from: Option<&'a RawValue>,
    #[serde(borrow, default)]
    to: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    bcc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reply_to: Option<&'a RawValue>,
    #[serde(borrow, default)]
    subject: Option<&'a RawValue>,
    #[serde(borrow, default)]
    html: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tags: Option<&'a RawValue>,
    #[serde(borrow, default)]
    scheduled_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
    #[serde(borrow, default)]
    attachments: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Template<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    variables: Option<&'a RawValue>,
}

/// Returns the value, unless it is empty, which counts as missing: some SDKs send every field.
fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| !matches!(value.get(), "\"\"" | "[]" | "null"))
}

/// Writes the JSON of a request. Once it is too large, it writes nothing more.
pub(super) struct Translator {
    options: Options,
    translation: Translation,
    /// Total size of the files.
    file_bytes: usize,
    is_too_large: bool,
}

/// A position to which a [`Translator`] can return.
struct Mark {
    json: usize,
    canonical: usize,
    htmls: usize,
    file_bytes: usize,
}

impl Translator {
    pub(super) fn new(options: Options) -> Self {
        Self { options, translation: Translation::default(), file_bytes: 0, is_too_large: false }
    }

    /// Returns the translation; `None` if it is too large.
    pub(super) fn finish(self) -> Option<Translation> {
        (!self.is_too_large).then_some(self.translation)
    }

    /// Returns whether this many bytes may be added. If not, nothing more is written.
    fn fits(&mut self, bytes: usize) -> bool {
        let size = self.translation.json.len().saturating_add(self.file_bytes).saturating_add(bytes);
        self.is_too_large |= size > self.options.max.saturating_add(OVERHEAD);
        !self.is_too_large
    }

    fn json(&mut self, bytes: &[u8]) {
        if self.fits(bytes.len()) {
            self.translation.json.extend_from_slice(bytes);
        }
    }

    fn canonical(&mut self, bytes: &[u8]) {
        if self.options.is_keyed && !self.is_too_large {
            self.translation.canonical.extend_from_slice(bytes);
        }
    }

    /// Writes to the JSON and to its canonical form.
    pub(super) fn both(&mut self, bytes: &[u8]) {
        self.json(bytes);
        self.canonical(bytes);
    }

    /// Writes a member; the object has at least one before it.
    fn member(&mut self, name: &str, value: &[u8]) {
        self.both(b",\"");
        self.both(name.as_bytes());
        self.both(b"\":");
        self.both(value);
    }

    /// Writes a message of a batch. A message with faults is left out; in the canonical form, its hash takes its place.
    pub(super) fn item(&mut self, item: &RawValue, index: usize, at: &Pointer<'_>) {
        let Translation { json, canonical, htmls, .. } = &self.translation;
        let mark =
            Mark { json: json.len(), canonical: canonical.len(), htmls: htmls.len(), file_bytes: self.file_bytes };
        if !self.translation.indexes.is_empty() {
            self.json(b",");
        }
        if index > 0 {
            self.canonical(b",");
        }
        let mut faults = Faults::default();
        match read_item::<Email<'_>>(item.get()) {
            Ok(email) => self.email(&email, index, at, &mut faults),
            Err(message) => at.fault(&mut faults, Code::InvalidType, message),
        }
        if faults.is_empty() {
            self.translation.indexes.push(index);
            return;
        }
        self.return_to(&mark, index);
        let comma = if index > 0 { "," } else { "" };
        // The hash also bounds the size of the canonical form.
        let refused = format!("{comma}{{\"refused\":\"{}\"}}", hex(&Sha256::digest(item.get())));
        self.canonical(refused.as_bytes());
        self.translation.refused.push(Refused { index, errors: faults.into_vec_at(at.to_string()) });
    }

    /// Removes what was written of a message.
    fn return_to(&mut self, mark: &Mark, index: usize) {
        let prefix = part_prefix(index);
        let translation = &mut self.translation;
        translation.json.truncate(mark.json);
        translation.canonical.truncate(mark.canonical);
        translation.htmls.truncate(mark.htmls);
        translation.parts.retain(|name, _| !name.starts_with(&prefix));
        translation.downloads.retain(|download| !download.part.starts_with(&prefix));
        self.file_bytes = mark.file_bytes;
    }

    /// Writes a message, and adds its faults. The names of its parts begin with `index`.
    pub(super) fn email(&mut self, email: &Email<'_>, index: usize, at: &Pointer<'_>, faults: &mut Faults) {
        // The first member, so that every other one is written with a comma before it.
        self.both(b"{\"stream\":null");
        for (name, value) in [
            ("from", email.from),
            ("reply_to", email.reply_to),
            ("subject", email.subject),
            ("text", email.text),
            ("headers", email.headers),
            ("tags", email.tags),
        ] {
            if let Some(value) = present(value) {
                self.member(name, value.get().as_bytes());
            }
        }
        for (name, value) in [("to", email.to), ("cc", email.cc), ("bcc", email.bcc)] {
            if let Some(value) = present(value) {
                let replaced = test_addresses::replaced(value);
                self.member(name, replaced.as_deref().unwrap_or(value.get()).as_bytes());
            }
        }
        if let Some(time) = present(email.scheduled_at) {
            self.scheduled_at(time, at, faults);
        }
        let template = present(email.template);
        if let Some(template) = template {
            self.template(template, at, faults);
        }
        if let Some(html) = present(email.html) {
            self.html(html, template.is_none() && email.text.is_none());
        }
        if email.text.is_some() && present(email.text).is_none() {
            // An empty text prevents a text from being derived, and a missing one does not, so the canonical forms
            // differ.
            self.canonical(b",\"text\":\"\"");
        }
        if let Some(attachments) = present(email.attachments) {
            self.attachments(attachments, index, at, faults);
        }
        self.both(b"}");
    }

    /// Writes the HTML body, from which a text may be derived later.
    fn html(&mut self, html: &RawValue, is_text_derived: bool) {
        self.member("html", html.get().as_bytes());
        if is_text_derived && !self.is_too_large {
            let end = self.translation.json.len();
            self.translation.htmls.push(end - html.get().len()..end);
        }
    }

    fn scheduled_at(&mut self, given: &RawValue, at: &Pointer<'_>, faults: &mut Faults) {
        let at = Pointer::Field(at, "scheduled_at");
        if given.get().len() > MAX_TIME {
            return at.fault(faults, Code::InvalidTimestamp, schedule::FORMS);
        }
        let Ok(text) = serde_json::from_str::<Cow<'_, str>>(given.get()) else {
            return at.fault(faults, Code::InvalidType, "expected a string");
        };
        match schedule::parse(&text, self.options.now) {
            Some(time) => {
                self.json(format!(",\"scheduled_at\":\"{}\"", times::format(time)).as_bytes());
                self.canonical(b",\"scheduled_at\":");
                self.canonical(given.get().as_bytes());
            }
            None => at.fault(faults, Code::InvalidTimestamp, schedule::FORMS),
        }
    }

    fn template(&mut self, given: &RawValue, at: &Pointer<'_>, faults: &mut Faults) {
        if !self.fits(given.get().len()) {
            return;
        }
        let template: Template<'_> = match read_item(given.get()) {
            Ok(template) => template,
            Err(message) => return Pointer::Field(at, "template").fault(faults, Code::InvalidType, message),
        };
        let id = template.id.as_deref().unwrap_or_default();
        let id = Uuid::try_parse(id).map_or_else(|_| id.to_owned(), |uuid| TemplateId(uuid).to_string());
        let mut value = format!("{{\"id\":{}", serde_json::Value::from(id));
        if let Some(variables) = template.variables {
            value.push_str(",\"variables\":");
            value.push_str(variables.get());
        }
        value.push('}');
        self.member("template", value.as_bytes());
    }

    fn attachments(&mut self, given: &RawValue, index: usize, at: &Pointer<'_>, faults: &mut Faults) {
        let at = Pointer::Field(at, "attachments");
        let attachments = match serde_json::from_str::<RawList<'_, MAX_ATTACHMENTS>>(given.get()) {
            Ok(RawList::Array { count, .. }) if count > MAX_ATTACHMENTS => {
                let message = format_args!("at most {MAX_ATTACHMENTS} attachments are allowed, not {count}");
                return at.fault(faults, Code::TooMany, message);
            }
            Ok(RawList::Array { items, .. }) => items,
            Ok(RawList::Null) => return,
            Ok(RawList::Other(found)) => {
                return at.fault(faults, Code::InvalidType, format_args!("expected an array, found {found}"));
            }
            Err(error) => return at.fault(faults, Code::InvalidType, error),
        };
        if attachments.is_empty() {
            return;
        }
        self.both(b",\"attachments\":[");
        for (number, attachment) in attachments.into_iter().enumerate() {
            if number > 0 {
                self.both(b",");
            }
            let here = Pointer::Index(&at, number);
            match read_item::<Attachment<'_>>(attachment.get()) {
                Ok(attachment) => self.attachment(&attachment, (index, number), &here, faults),
                Err(message) => here.fault(faults, Code::InvalidType, message),
            }
        }
        self.both(b"]");
    }

    /// Writes the attachment with this number of the message with this index. Its file becomes a part.
    fn attachment(
        &mut self,
        attachment: &Attachment<'_>,
        (index, number): (usize, usize),
        at: &Pointer<'_>,
        faults: &mut Faults,
    ) {
        if !self.fits(attachment.max_size()) {
            return;
        }
        let max_downloads = self.options.downloads;
        let Some(source) = attachment.source(max_downloads.is_some(), at, faults) else { return };
        let (part, name) = (format!("{}{number}", part_prefix(index)), source.name());
        let by_part = attachment.value("part", &part, &name);
        self.json(by_part.as_bytes());
        match source {
            Source::File(file) => {
                self.canonical(by_part.as_bytes());
                self.file_bytes += file.data.len();
                self.translation.parts.insert(part, file);
            }
            Source::Url(url) => {
                self.canonical(attachment.value("path", &url, &name).as_bytes());
                if max_downloads.is_some_and(|max| number < max) {
                    self.translation.downloads.push(Download { part, url });
                }
            }
        }
    }
}

/// Returns what the names of a message's parts begin with.
fn part_prefix(index: usize) -> String {
    format!("{index}.")
}
