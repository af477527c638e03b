//! SIGTERM and Ctrl-C: the first asks for a stop, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from the moment this is made: a service must not announce that it runs before it can be
/// stopped in order.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first signal. From then on a second one ends the process at once.
    pub async fn stop_requested(mut self) {
        self.next().await;
        tracing::info!("stopping: finishing what is in flight (once more to stop at once)");
        tokio::spawn(async move {
            self.next().await;
            eprintln!("postrider: stopped at once; what was in flight goes on when a worker starts again");
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
