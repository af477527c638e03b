//! The `postrider` binary: reads the command line and hands over to [`postrider::cli`].

use std::process::ExitCode;

/// Large attachments come and go; mimalloc gives their memory back where glibc's heap keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postrider::cli::main()
}
