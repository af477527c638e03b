//! The `postrider` binary, which runs [`postrider::cli`].

use std::process::ExitCode;

/// mimalloc returns the memory of large attachments to the system, which glibc's heap keeps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
