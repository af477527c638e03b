//! Return paths: any text is read or refused, and no token is accepted that was not made with the secret.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are taken as they are")]

use libfuzzer_sys::fuzz_target;

/// The modules under test, at the same paths as in the product.
#[path = "../../src/domain"]
mod domain {
    pub mod address;
    pub mod id;
    pub mod keyring;
    pub mod return_path;
}

use domain::id::MessageId;
use domain::keyring::Keyring;
use domain::return_path::{ReturnPaths, Token};

fuzz_target!(|bytes: &[u8]| {
    let keyring = Keyring::new("a secret that the fuzzer does not know", ["one from before"]);
    let paths = ReturnPaths::new(keyring, "return.test", std::time::Duration::from_hours(24 * 60));
    let now = chrono::DateTime::from_timestamp(1_795_435_200, 0).unwrap();
    let text = String::from_utf8_lossy(bytes);
    assert!(paths.read(&text, now).is_err() && paths.find(&text, now).is_err());

    // In a valid token, only the case of letters may be changed.
    let token = Token { message: MessageId(uuid::Uuid::from_u128(7)), position: Some(3) };
    let mut letters = paths.token(token, now).into_bytes();
    let whole = letters.clone();
    for change in bytes.chunks_exact(2) {
        let place = usize::from(change[0]) % letters.len();
        letters[place] = change[1];
    }
    let changed = String::from_utf8_lossy(&letters);
    let is_same = changed.as_bytes().eq_ignore_ascii_case(&whole);
    assert_eq!(paths.read(&format!("b+{changed}@return.test"), now).is_ok(), is_same);
});
