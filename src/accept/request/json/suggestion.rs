//! Suggests a known name for an unknown one, which may be spelt differently, used by another email service, or
//! mistyped.

use super::pointer::MAX_ECHOED_CHARS;

/// Names of Postrider's fields in other services (SES, Mailgun, Mandrill, Postmark, Resend, `SendGrid`, `SparkPost`,
/// Nodemailer), in lower case and without separators. A name with several meanings is in several rows; the first row
/// whose field is known in the object decides.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("filename", &["name", "file", "path", "title"]),
    ("content_type", &["type", "mimetype", "mime", "mediatype"]),
    ("content_id", &["cid", "inlineid", "inlinecontentid"]),
    ("content", &["data", "body", "contentbase64", "base64", "base64content", "contentbytes", "rawcontent"]),
    ("email", &["address", "mail", "emailaddress"]),
    ("address", &["email", "emailaddress", "recipient", "mail"]),
    ("from", &["sender", "fromemail", "fromaddress", "fromemailaddress", "source", "mailfrom"]),
    ("to", &["recipients", "recipient", "toaddresses", "toaddress", "toemail", "destination", "destinations", "email"]),
    ("cc", &["ccaddresses", "ccrecipients", "carboncopy"]),
    ("bcc", &["bccaddresses", "bccaddress", "bccrecipients", "blindcarboncopy"]),
    ("reply_to", &["replytoaddress", "replytoaddresses", "replytolist", "replytoemail", "replyemail"]),
    ("subject", &["title", "subjectline", "topic"]),
    ("html", &["htmlbody", "bodyhtml", "htmlcontent", "htmlpart", "htmltext", "contenthtml"]),
    (
        "text",
        &[
            "textbody",
            "plain",
            "body",
            "bodytext",
            "plaintext",
            "content",
            "textcontent",
            "textpart",
            "bodyplain",
            "message",
        ],
    ),
    ("headers", &["customheaders", "extraheaders", "mailheaders"]),
    ("attachments", &["files", "file", "attachment", "inline", "inlineimages", "images", "inlinedattachments"]),
    (
        "metadata",
        &["customid", "uniqueargs", "customargs", "customvariables", "variables", "customdata", "userdata", "meta"],
    ),
    ("tags", &["tag", "categories", "category", "emailtags", "otag", "labels"]),
    ("template", &["templateid", "templatealias", "templatename", "templatemodel", "templatedata"]),
    ("stream", &["messagestream", "ippool", "ippoolname", "pool", "configurationsetname", "configurationset"]),
    (
        "scheduled_at",
        &[
            "sendat",
            "deliverat",
            "sendtime",
            "sendon",
            "deliverytime",
            "deliverytimestamp",
            "odeliverytime",
            "starttime",
            "schedule",
            "delay",
        ],
    ),
    ("expires_at", &["ttl", "validuntil", "expiry", "expiration", "deadline", "timetolive"]),
    ("url", &["endpoint", "endpointurl", "target", "targeturl", "callbackurl", "callback", "uri", "webhookurl"]),
    ("events", &["eventtypes", "enabledevents", "filtertypes", "event", "types", "triggers"]),
    ("scopes", &["permissions", "permission", "roles"]),
    ("sender_domains", &["domains", "domain", "domainid"]),
    ("name", &["key", "domain", "domainname", "displayname", "fullname", "label", "title", "description"]),
    ("note", &["comment", "description"]),
];

/// Returns the known name that the sender probably intended.
pub fn suggestion(name: &str, known: &[&'static str]) -> Option<&'static str> {
    if name.chars().count() > MAX_ECHOED_CHARS {
        return None;
    }
    let name = normalise(name);
    let same = known.iter().find(|known| normalise(known) == name).copied();
    same.or_else(|| synonym(&name, known)).or_else(|| nearest(&name, known))
}

/// Normalises a name to lower case without separators.
fn normalise(name: &str) -> String {
    name.replace(['_', '-', ' ', '.', ':'], "").to_lowercase()
}

fn synonym(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let mut rows = SYNONYMS.iter().filter(|(_, synonyms)| synonyms.contains(&name));
    rows.find_map(|(field, _)| known.iter().find(|known| *known == field).copied())
}

/// Returns the known name that differs in few letters.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let (near, distance) = known
        .iter()
        .map(|known| (*known, strsim::damerau_levenshtein(name, &normalise(known))))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= name.chars().count() / 3).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::message::{address, attachments, send, tags};
    use crate::accept::request::resources::suppression;

    /// Checks the suggestion for each name in an object with the `known` fields.
    fn table(known: &[&'static str], rows: &[(&str, &[&str])]) {
        for (field, names) in rows {
            for name in *names {
                assert_eq!(suggestion(name, known), Some(*field), "{name}");
            }
        }
    }

    #[test]
    fn misspelt_field_gets_the_right_suggestion() {
        let known = &["reply_to", "to", "scheduled_at", "content_type"];
        table(
            known,
            &[
                ("reply_to", &["replyTo", "ReplyTo", "reply-to", "Reply To"]),
                ("scheduled_at", &["schedule_at"]),
                ("content_type", &["contentType"]),
            ],
        );
        for name in ["body", "x", "", "_", &"x".repeat(1_000)] {
            assert_eq!(suggestion(name, known), None, "{name}");
        }
    }

    #[test]
    fn names_of_other_services_are_translated() {
        table(
            send::FIELDS,
            &[
                (
                    "scheduled_at",
                    &["send_at", "sendAt", "SendAt", "deliver_at", "deliverAt", "o:deliverytime", "start_time"],
                ),
                ("html", &["htmlBody", "html_body", "HtmlBody", "body_html", "htmlContent", "HTMLPart"]),
                ("text", &["textBody", "plain", "body", "body_text", "plain_text", "content", "TextPart", "TextBody"]),
                ("reply_to", &["replyTo", "reply_to_address", "ReplyToAddresses", "reply-to"]),
                ("to", &["recipients", "recipient", "toAddresses", "destination", "To"]),
                ("cc", &["Cc", "CcAddresses"]),
                ("bcc", &["Bcc", "bcc_address"]),
                ("from", &["sender", "fromEmail", "from_email", "From", "FromEmailAddress"]),
                ("subject", &["title", "Subject"]),
                ("metadata", &["customId", "unique_args", "custom_args", "custom_variables", "variables", "Metadata"]),
                ("tags", &["tag", "Tag", "categories", "category"]),
                ("stream", &["messageStream", "message_stream", "MessageStream", "ip_pool", "ConfigurationSetName"]),
                ("attachments", &["files", "Attachments"]),
                ("template", &["template_id", "TemplateAlias"]),
                ("expires_at", &["ttl", "expiresAt"]),
            ],
        );
        table(
            attachments::FIELDS,
            &[
                ("filename", &["name", "Name", "file_name", "fileName"]),
                ("content_type", &["contentType", "ContentType", "type", "mime_type"]),
                ("content", &["data", "Content", "content_base64"]),
                ("content_id", &["cid", "contentId", "ContentID", "inline_id"]),
            ],
        );
        table(address::FIELDS, &[("email", &["address", "Email", "mail"]), ("name", &["displayName"])]);
        table(tags::FIELDS, &[("name", &["key", "Name"])]);
        table(suppression::FIELDS, &[("address", &["email", "recipient"]), ("expires_at", &["expiresAt"])]);
    }

    #[test]
    fn only_known_names_are_suggested() {
        for (field, synonyms) in SYNONYMS {
            for name in *synonyms {
                assert_eq!(*name, normalise(name), "{field}: must be normalised");
                assert_eq!(synonym(name, &["nothing"]), None, "{name}");
            }
        }
    }
}
