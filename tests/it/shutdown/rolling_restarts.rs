//! Replicas are replaced one after the other while applications send: no message is lost, and none is sent twice.

use crate::support::client::Api;
use crate::support::invariants;
use crate::support::load::{Load, Replicas, copies, have_all_arrived};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;

/// Number of messages that are accepted between two restarts.
const MESSAGES_PER_RESTART: usize = 60;

async fn restart_replicas(restarts: usize) {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (key, replicas) = (key(&database.url).await, Replicas::default());
    let start = async |number: usize| {
        let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
        replicas.set(number, Api::new(service.address.clone().unwrap(), &key));
        service
    };
    let mut running = [start(0).await, start(1).await];
    let mut load = Load::endless(&replicas);
    for number in 0..restarts {
        load.wait_for(load.count() + MESSAGES_PER_RESTART).await;
        let index = number % running.len();
        replicas.remove(number);
        let old = std::mem::replace(&mut running[index], start(number + 2).await);
        assert!(old.terminate().await.success());
    }
    let acknowledged = load.end().await;
    have_all_arrived(&smtp, &acknowledged).await;
    for service in running {
        assert!(service.terminate().await.success());
    }
    invariants::check(&mut database.connect().await).await;
    let twice: Vec<_> = copies(&smtp).into_iter().filter(|(_, copies)| *copies != 1).collect();
    assert_eq!(twice, []);
}

#[tokio::test]
async fn four_restarts_under_load_lose_no_message() {
    restart_replicas(4).await;
}

#[tokio::test]
#[ignore = "takes a minute: cargo test --test it rolling_restarts -- --ignored"]
async fn twenty_restarts_under_load_lose_no_message() {
    restart_replicas(20).await;
}
