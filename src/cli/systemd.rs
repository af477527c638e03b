//! Tells systemd about the state of the service, if systemd started it with `Type=notify`: the protocol of `sd_notify(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

/// The service is running.
pub(super) const READY: &str = "READY=1";
/// The service is stopping.
pub(super) const STOPPING: &str = "STOPPING=1";
/// The service responds.
const WATCHDOG: &str = "WATCHDOG=1";

/// Sends a state. A failure is logged only, because the service can run without systemd.
pub(super) fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, state)
    {
        tracing::debug!(%error, state, "cannot notify systemd");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Otherwise a receiver that does not read would stop this process.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Notifies the watchdog twice in its time limit while this process can run tasks, if the unit has `WatchdogSec`.
pub(super) fn watchdog() -> Option<AbortOnDropHandle<()>> {
    let limit = std::env::var("WATCHDOG_USEC").ok()?.parse().ok().map(Duration::from_micros)?;
    let is_for_this_process = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    if limit.is_zero() || !is_for_this_process {
        return None;
    }
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(limit / 2);
        loop {
            ticks.tick().await;
            notify(WATCHDOG);
        }
    })))
}
