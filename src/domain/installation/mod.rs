//! What belongs to one installation: its secret, fingerprints of its settings, and whether its database may send.

pub mod fingerprint;
pub mod keyring;
pub mod restore;
