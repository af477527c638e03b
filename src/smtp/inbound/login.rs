//! Parses the responses of AUTH (RFC 4954): PLAIN (RFC 4616) and LOGIN.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Decodes a response from base64. `=` is an empty initial response (RFC 4954 §4).
pub(super) fn decode(response: &[u8]) -> Option<Vec<u8>> {
    if response == b"=" {
        return Some(Vec::new());
    }
    STANDARD.decode(response).ok()
}

/// Returns the user and the password in a decoded response of PLAIN: `[authzid] NUL user NUL password`. The
/// authorization identity is ignored.
pub(super) fn plain(response: &[u8]) -> Option<(String, String)> {
    let mut parts = response.split(|byte| *byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((text(user.to_vec())?, text(password.to_vec())?))
}

/// Returns a decoded response of LOGIN as text.
pub(super) fn text(response: Vec<u8>) -> Option<String> {
    String::from_utf8(response).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_has_a_user_and_a_password() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(plain(b"\0ann\0secret"), pair("ann", "secret"));
        assert_eq!(plain("root\0änn\0".as_bytes()), pair("änn", ""));
        assert_eq!(decode(b"AGFubgBzZWNyZXQ=").and_then(|bytes| plain(&bytes)), pair("ann", "secret"));
        for bad in [b"".as_slice(), b"ann", b"\0ann", b"\0ann\0a\0b", b"\0\xff\0a"] {
            assert_eq!(plain(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn responses_are_strict_base64() {
        assert_eq!(decode(b"="), Some(Vec::new()));
        assert_eq!(decode(b""), Some(Vec::new()));
        for bad in [b"AAA".as_slice(), b"AA==AA==", b"A A=", b"****", b"\xff"] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
        assert_eq!((text(b"a\0".to_vec()), text(b"\xff".to_vec())), (None, None));
    }

    proptest! {
        #[test]
        fn every_login_survives_the_encoding(user in "[^\0]{0,20}", password in "[^\0]{0,20}") {
            let response = STANDARD.encode(format!("\0{user}\0{password}"));
            let decoded = decode(response.as_bytes()).expect("base64");
            prop_assert_eq!(plain(&decoded), Some((user, password)));
        }

        #[test]
        fn any_bytes_give_a_login_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some((user, password)) = decode(&bytes).and_then(|decoded| plain(&decoded)) {
                prop_assert!(!user.contains('\0') && !password.contains('\0'));
            }
        }
    }
}
