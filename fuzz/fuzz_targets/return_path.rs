//! Parses any text as a return path, without a panic. Only tokens that were made with the secret are accepted.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/domain"]
mod domain {
    pub mod address;
    pub mod id;
    pub mod installation {
        pub mod keyring;
    }
}

use domain::address::return_path::{ReturnPaths, Token};
use domain::id::MessageId;
use domain::installation::keyring::Keyring;

fuzz_target!(|bytes: &[u8]| {
    let keyring = Keyring::new("a secret that the fuzzer does not know", ["an earlier secret"]);
    let paths = ReturnPaths::new(keyring, "return.test", std::time::Duration::from_hours(24 * 60));
    let now = chrono::DateTime::from_timestamp(1_795_435_200, 0).unwrap();
    let text = String::from_utf8_lossy(bytes);
    assert!(paths.verify_address(&text, now).is_err() && paths.find(&text, now).is_err());

    // A valid token stays valid if and only if nothing but the case of letters changes.
    let token = Token { message: MessageId(uuid::Uuid::from_u128(7)), position: Some(3) };
    let mut letters = paths.token(token, now).into_bytes();
    let whole = letters.clone();
    for change in bytes.chunks_exact(2) {
        let position = usize::from(change[0]) % letters.len();
        letters[position] = change[1];
    }
    let changed = String::from_utf8_lossy(&letters);
    let is_same = changed.as_bytes().eq_ignore_ascii_case(&whole);
    assert_eq!(paths.verify_address(&format!("b+{changed}@return.test"), now).is_ok(), is_same);
});
