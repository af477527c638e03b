//! A proxy to Postgres, with which the test simulates a dead connection, a closed port, or a server that disconnects.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The state of the connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LinkState {
    /// Whether all bytes are silently dropped.
    is_silent: bool,
    /// How often silence has started: connections that were open at that time stay silent.
    silences: usize,
    /// How often all connections were closed.
    disconnects: usize,
}

struct Shared {
    state: watch::Sender<LinkState>,
    target: watch::Sender<SocketAddr>,
}

/// A proxy at a fixed address, with a target that can change.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address to listen at");
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { state: watch::Sender::new(LinkState::default()), target: watch::Sender::new(target) });
        let listening = Some(tokio::spawn(accept(listener, shared.clone())));
        Self { address, shared, listening }
    }

    /// Changes the target of new connections.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Drops all bytes silently.
    pub fn go_silent(&self) {
        self.shared.state.send_modify(|state| {
            state.is_silent = true;
            state.silences += 1;
        });
    }

    /// Closes every connection and refuses new ones.
    pub async fn refuse(&mut self) {
        self.hang_up();
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// Closes every connection and accepts new ones.
    pub fn hang_up(&self) {
        self.shared.state.send_modify(|state| state.disconnects += 1);
    }

    /// Ends the simulated fault. Connections that are silent stay silent.
    pub fn open(&mut self) {
        self.shared.state.send_modify(|state| state.is_silent = false);
        if self.listening.is_none() {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address).expect("the same address again");
            self.listening = Some(tokio::spawn(accept(socket.listen(1024).unwrap(), self.shared.clone())));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // The end of this task drops the set, which closes every connection.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (state, target) = (shared.state.subscribe(), *shared.target.borrow());
        connections.spawn(relay(client, target, state));
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, mut state: watch::Receiver<LinkState>) {
    let initial = *state.borrow_and_update();
    let mut disconnected = state.clone();
    let forwarding = async {
        let mut server = None;
        if !initial.is_silent {
            let Ok(stream) = TcpStream::connect(target).await else { return };
            let server = server.insert(stream);
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            tokio::select! {
                _ = copy_bidirectional(&mut client, server) => return,
                _ = state.wait_for(|state| state.silences > initial.silences) => {}
            }
        }
        // The connection stays open, but no bytes are forwarded.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = forwarding => {}
        _ = disconnected.wait_for(|state| state.disconnects > initial.disconnects) => {}
    }
}
