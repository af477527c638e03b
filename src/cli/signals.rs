//! SIGTERM and Ctrl-C: the first signal shuts the service down gracefully (`App::stop`), the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of both signals. They are installed before the service reports that it is running, so that it can always be
/// shut down gracefully.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the signal handlers.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first signal. From then on, another signal ends the process at once.
    pub async fn stop_requested(mut self) {
        self.next().await;
        tracing::info!(event = "stopping", "stopping: finishing messages in flight (signal again to stop at once)");
        tokio::spawn(async move {
            self.next().await;
            eprintln!("error: stopped at once; a worker continues the messages in flight when their leases expire");
            std::process::exit(130);
        });
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
