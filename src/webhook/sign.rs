//! Signatures (Standard Webhooks 1.0, "Signature scheme"): `v1,` and the base64 of an HMAC-SHA256 over
//! `id.timestamp.body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Returns the value of `webhook-signature`: one signature per secret, so that receivers can verify with either secret
/// during a rotation.
pub fn signature<'a>(secrets: impl Iterator<Item = &'a [u8]>, id: &str, timestamp: i64, body: &[u8]) -> String {
    let signed = secrets.filter_map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    });
    signed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn the_example_of_standard_webhooks_is_reproduced() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(std::iter::once(&secret[..]), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn both_secrets_verify_during_a_rotation_and_no_other() {
        let (new, old) = ([1; 32], [2; 24]);
        let now = SystemClock.now().timestamp();
        let signed = signature([&new[..], &old].into_iter(), "evt_1", now, b"{}");
        let verifies = |secret: &[u8], body: &[u8]| {
            Webhook::from_bytes(secret.to_vec()).unwrap().verify(body, &headers("evt_1", now, &signed)).is_ok()
        };
        assert!(verifies(&new, b"{}") && verifies(&old, b"{}"));
        assert!(!verifies(&[3; 32], b"{}") && !verifies(&new, b"{ }"));
    }

    proptest! {
        #[test]
        fn the_reference_library_gives_the_same_signature(
            secret in prop::collection::vec(any::<u8>(), 24..=64),
            id in "[a-z0-9_]{1,40}",
            time in 0..4_000_000_000_i64,
            body in ".{0,200}",
        ) {
            let expected = Webhook::from_bytes(secret.clone()).unwrap().sign(&id, time, body.as_bytes()).unwrap();
            prop_assert_eq!(signature(std::iter::once(&secret[..]), &id, time, body.as_bytes()), expected);
        }
    }
}
