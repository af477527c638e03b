//! DKIM signatures and keys.

mod key_rotation;
mod replicas;
mod signatures;
