//! The `postrider` binary, which runs [`postrider::cli`].

use std::process::ExitCode;

/// Unlike glibc's heap, mimalloc returns the memory of large attachments to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
