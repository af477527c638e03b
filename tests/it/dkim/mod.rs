//! DKIM signatures and keys.

mod key_rotation;
mod signatures;
