//! A thread with a stack of known size, for parsers that recurse.

use crate::domain::api::fault::{Code, Fault};

use super::faults::fault;

/// Stack size. All parsers limit their recursion; the deepest needs about a tenth of this in a release build. Stack
/// that is not used takes no memory.
const STACK: usize = 16 * 1024 * 1024;

/// Runs `work` on a thread of its own and waits for it. A panic in a parser, which would be a bug, becomes a fault.
pub(super) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    let failed = || fault("", Code::InvalidTemplate, "The template cannot be processed; simplify it.");
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) | Err(_) => Err(failed()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_borrows_and_panics_become_faults() {
        let text = "x".to_owned();
        assert_eq!(run(|| text.len()), Ok(1));
        assert!(run(|| -> usize { panic!("a bug") }).is_err());
    }
}
