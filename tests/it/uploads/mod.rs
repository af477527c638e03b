//! Files that are uploaded, or sent as parts of a form.

mod blobs;
mod by_digest;
mod cleanup;
mod forms;
mod malformed_forms;
mod memory;
mod released;
