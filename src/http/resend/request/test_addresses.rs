//! Replaces Resend's test addresses, such as `bounced@resend.dev`, with addresses of the simulator.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::simulator;

/// The domain of Resend's test addresses.
const DOMAIN: &str = "resend.dev";
/// The local parts of the test addresses, without a label. Each is also a script of the simulator.
const LOCAL_PARTS: [&str; 4] = ["delivered", "bounced", "complained", "suppressed"];

/// Longer lists are not changed: parsing needs several times their size, and no message may have so many recipients.
const MAX_BYTES: usize = 1 << 20;

/// Returns the recipients with Resend's test addresses replaced; `None` if the JSON does not contain their domain or is
/// too long.
pub(super) fn replaced(recipients: &RawValue) -> Option<String> {
    let text = recipients.get().as_bytes();
    // Almost no request contains the domain.
    if text.len() > MAX_BYTES || !text.windows(DOMAIN.len()).any(|part| part.eq_ignore_ascii_case(DOMAIN.as_bytes())) {
        return None;
    }
    let mut value: Value = serde_json::from_str(recipients.get()).ok()?;
    match &mut value {
        Value::String(one) => replace(one),
        Value::Array(list) => list.iter_mut().for_each(|one| {
            if let Value::String(one) = one {
                replace(one);
            }
        }),
        _ => return None,
    }
    Some(value.to_string())
}

/// Replaces the domain of `a@b` or `Name <a@b>`, if the address is one of Resend's test addresses.
fn replace(mailbox: &mut String) {
    let start = mailbox.rfind('<').map_or(0, |at| at + 1);
    let address = mailbox[start..].trim_end().trim_end_matches('>').trim_end();
    let Some((local, domain)) = address.rsplit_once('@') else { return };
    let script = local.split('+').next().unwrap_or_default().trim_start();
    let is_known = LOCAL_PARTS.iter().any(|known| script.eq_ignore_ascii_case(known));
    if is_known && domain.eq_ignore_ascii_case(DOMAIN) {
        let end = start + address.len();
        mailbox.replace_range(end - domain.len()..end, simulator::DOMAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(json: &str) -> String {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        replaced(&raw).unwrap_or_else(|| "unchanged".into())
    }

    #[test]
    fn addresses_of_resend_become_those_of_the_simulator() {
        assert_eq!(translated(r#""delivered@resend.dev""#), r#""delivered@simulator.postrider.test""#);
        assert_eq!(
            translated(r#"["Ann <Bounced+a@RESEND.dev>", "bo@example.test", "complained@resend.dev "]"#),
            r#"["Ann <Bounced+a@simulator.postrider.test>","bo@example.test","complained@simulator.postrider.test "]"#
        );
    }

    #[test]
    fn other_addresses_stay() {
        for json in [r#""onboarding@resend.dev""#, r#""bounced@sub.resend.dev""#, r#""resend.dev""#, "[7]", "{}"] {
            let result = translated(json);
            assert!(result == "unchanged" || !result.contains("simulator"), "{json}: {result}");
        }
    }
}
