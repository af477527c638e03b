//! Receipts in text: notices that a message arrived, was relayed, or was expanded to several addresses.

use super::formats::{states, states_failure};
use crate::domain::bounce::{self, BounceType};
use crate::domain::outcome::Reply;
use crate::mail::report::received::parts::ReceivedMessage;
use crate::mail::report::received::status;

/// Phrases that report success, in lower case.
const SUCCESSES: [&str; 92] = [
    "return receipt",
    "delivery receipt",
    "successful mail delivery",
    "successfully delivered",
    "successfully relayed",
    "successfully sent",
    "was successfully",
    "been successfully",
    "were successfully",
    "delivered successfully",
    "relayed successfully",
    "delivery successful",
    "delivery was successful",
    "delivery succeeded",
    "successful delivery",
    "expanded to multiple addresses",
    "expanded by the mailing list",
    "was expanded to",
    "has been expanded",
    "relayed to non-dsn",
    "expect no further notifications",
    "will not be notified of delivery",
    "delivery to the following recipients succeeded",
    "recipients or groups is complete",
    "recipients or distribution lists is complete",
    "has been delivered to",
    "have been delivered to",
    "was delivered to",
    "were delivered to",
    "delivered to mailbox",
    "delivered to the mailbox",
    "has been relayed to",
    "have been relayed to",
    "was relayed to",
    "were relayed to",
    "was forwarded to the following",
    "was transferred to the following",
    "was received by:",
    "was received by the following",
    "was accepted by the following",
    "was opened by the following",
    "was read by the following",
    "was deleted by the following",
    "- delivered",
    "- relayed",
    "- opened",
    "(success)",
    "(relay)",
    "(relayed)",
    "(delivered)",
    "(expanded)",
    "erfolgreich zugestellt",
    "erfolgreich übermittelt",
    "erfolgreich weitergeleitet",
    "wurde zugestellt",
    "folgenden empfängern zugestellt",
    "folgende empfänger zugestellt",
    "folgenden empfänger zugestellt",
    "folgende empfänger übermittelt",
    "empfänger oder gruppen ist abgeschlossen",
    "remis avec succès",
    "relayé avec succès",
    "a bien été remis",
    "a été remis à",
    "a été remis aux",
    "a été relayé",
    "destinataires ou groupes est effectuée",
    "destinataires ou groupes est terminée",
    "entregado correctamente",
    "entregado con éxito",
    "se entregó correctamente",
    "se entregó a los siguientes",
    "se ha entregado a los siguientes",
    "fue entregado a",
    "ha sido entregado",
    "se completó la entrega",
    "è stato recapitato",
    "è stato consegnato",
    "foi entregue",
    "entregue com êxito",
    "entregue com sucesso",
    "is afgeleverd",
    "is bezorgd",
    "har levererats",
    "er blevet leveret",
    "zostało dostarczone",
    "została dostarczona",
    "успешно доставлено",
    "было доставлено",
    "正常に配信され",
    "已成功送达",
    "已成功投递",
];

/// Beginnings of the subjects of receipts, in lower case.
const RECEIPTS: [&str; 32] = [
    "read: ",
    "delivered: ",
    "relayed: ",
    "expanded: ",
    "gelesen: ",
    "zugestellt: ",
    "übermittelt: ",
    "weitergeleitet: ",
    "erweitert: ",
    "lu : ",
    "remis : ",
    "relayé : ",
    "transmis : ",
    "développé : ",
    "leído: ",
    "entregado: ",
    "retransmitido: ",
    "expandido: ",
    "letto: ",
    "recapitato: ",
    "consegnato: ",
    "inoltrato: ",
    "lida: ",
    "lido: ",
    "entregue: ",
    "gelezen: ",
    "bezorgd: ",
    "afgeleverd: ",
    "levererat: ",
    "доставлено: ",
    "已送达: ",
    "配信済み: ",
];

/// Returns whether a notice is a receipt that reports no failed delivery. `lower` is its text in lower case and on one
/// line.
pub(in crate::mail::report) fn is_receipt(message: &ReceivedMessage<'_>, notice: &str, lower: &str) -> bool {
    if message.fields.get("x-failed-recipients").is_some() {
        return false;
    }
    let subject = message.subject.to_lowercase();
    // The rest of the subject is the subject of the original message and may contain any phrase, so only the text is
    // searched for a failure.
    if RECEIPTS.iter().any(|words| subject.starts_with(words)) {
        return !states_failure(lower);
    }
    let contains = |test: &dyn Fn(&str) -> bool| test(lower) || test(&subject);
    contains(&|text| states(text, &SUCCESSES)) && !contains(&states_failure) && !quotes_refusal(notice)
}

/// Returns whether a text reports the success of a delivery and no failure.
pub(in crate::mail::report) fn is_success(text: &str) -> bool {
    let lower = text.to_lowercase();
    states(&lower, &SUCCESSES) && !states_failure(&lower)
}

/// Returns whether a text quotes a refusal: an enhanced code, or a phrase about a permanent failure.
fn quotes_refusal(notice: &str) -> bool {
    status::refusal(notice, None).enhanced.is_some()
        || bounce::judge(&Reply::local_error(notice)).kind == BounceType::Hard
}
