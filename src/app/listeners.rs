//! Binds the listeners. The errors name the setting to change.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::Roles;
use super::hint::Hinted;
use crate::config::Config;
use crate::http;

/// The sockets of the HTTP servers.
#[derive(Debug)]
pub(super) struct Listeners {
    /// The API, if the process serves it.
    pub api: Option<TcpListener>,
    /// The pages for recipients only.
    pub public: Option<TcpListener>,
    /// Metrics and probes.
    pub ops: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config, roles: Roles) -> anyhow::Result<Self> {
        let ops = config.metrics.listen.map(|address| listen_as(address, "POSTRIDER_METRICS__LISTEN")).transpose()?;
        if roles == Roles::Worker {
            return Ok(Self { api: None, public: None, ops });
        }
        let api = listen(config.listen).await?;
        let public = config.public_listen.map(|address| listen_as(address, "POSTRIDER_PUBLIC_LISTEN"));
        Ok(Self { api: Some(api), public: public.transpose()?, ops })
    }
}

/// Binds the listener of the API.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen_as(address, "POSTRIDER_LISTEN")
}

fn listen_as(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    http::bind(address).map_err(|error| {
        let fix = match error.kind() {
            ErrorKind::AddrInUse => format!("stop the program that uses it, or choose another address with {setting}"),
            ErrorKind::AddrNotAvailable => {
                format!("this machine has no such address; set {setting} to one that it has, or to 0.0.0.0 for all")
            }
            ErrorKind::PermissionDenied => {
                format!("ports below 1024 need CAP_NET_BIND_SERVICE; choose another with {setting}")
            }
            _ => format!("choose another address with {setting}"),
        };
        Hinted::new(anyhow::Error::new(error).context(format!("cannot listen on {address}")), fix).into()
    })
}

/// Returns another handle of the same socket. Connections that arrive while nobody accepts wait for either handle.
pub(super) fn duplicate(listener: &TcpListener) -> anyhow::Result<TcpListener> {
    let duplicated = listener.as_fd().try_clone_to_owned().map(std::net::TcpListener::from);
    duplicated.and_then(TcpListener::from_std).context("cannot duplicate the listener")
}
