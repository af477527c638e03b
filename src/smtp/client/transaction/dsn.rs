//! The parameters that request delivery status notifications (RFC 3461 §4, RFC 6533 §3).
//!
//! `RET=HDRS`: a bounce need not return the whole message. `ENVID` identifies the message, `ORCPT` the address that
//! the message was sent to, so that the notification contains it even if the message was forwarded.

use std::fmt::Write as _;

use lettre::transport::smtp::extension::{MailParameter, RcptParameter};

use crate::domain::address::Address;
use crate::smtp::client::route::Dsn;

/// Maximum length of ORCPT's value (RFC 3461 §4.2).
const MAX_ORCPT: usize = 500;

/// Returns the parameters of MAIL.
pub(in crate::smtp) fn mail_parameters(dsn: &Dsn) -> [MailParameter; 2] {
    let other =
        |keyword: &str, value: &str| MailParameter::Other { keyword: keyword.into(), value: Some(value.into()) };
    [other("RET", "HDRS"), other("ENVID", &dsn.envelope_id)]
}

/// Returns the parameters of one RCPT. The command encodes them as xtext where necessary.
pub(in crate::smtp) fn rcpt_parameters(dsn: &Dsn, to: &Address) -> Vec<RcptParameter> {
    let other = |keyword: &str, value: String| RcptParameter::Other { keyword: keyword.into(), value: Some(value) };
    let notify = if dsn.success { "SUCCESS,FAILURE,DELAY" } else { "FAILURE,DELAY" };
    let original = original(to);
    let mut parameters = vec![other("NOTIFY", notify.into())];
    if original.len() <= MAX_ORCPT {
        parameters.push(other("ORCPT", original));
    }
    parameters
}

/// Returns the address with its type. A non-ASCII address is encoded in seven bits, which every server accepts.
fn original(to: &Address) -> String {
    let address = to.to_string();
    if address.is_ascii() {
        return format!("rfc822;{address}");
    }
    let mut text = String::from("utf-8;");
    for letter in address.chars() {
        if letter.is_ascii_graphic() && !matches!(letter, '+' | '=' | '\\') {
            text.push(letter);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{{{:X}}}", u32::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::commands::Rcpt;

    use super::*;

    fn command(to: &str, success: bool) -> String {
        let to: Address = to.parse().unwrap();
        let dsn = Dsn { envelope_id: "x".into(), success };
        let address = lettre::Address::new_dangerous(to.local(), to.domain());
        Rcpt::new(address, rcpt_parameters(&dsn, &to)).to_string()
    }

    #[test]
    fn an_address_is_written_as_xtext() {
        assert_eq!(
            command("ann+a=b@example.test", false),
            "RCPT TO:<ann+a=b@example.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;ann+2Ba+3Db@example.test\r\n"
        );
        assert_eq!(
            command("\"a b\"@example.test", true),
            "RCPT TO:<\"a b\"@example.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;\"a+20b\"@example.test\r\n"
        );
    }

    #[test]
    fn a_non_ascii_address_is_written_in_seven_bits() {
        assert!(command("jörg+x@example.test", false).ends_with(" ORCPT=utf-8;j\\x{F6}rg\\x{2B}x@example.test\r\n"));
    }
}
