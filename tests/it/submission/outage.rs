//! While the database is unavailable, messages are refused with 451 and nothing is stored.

use super::{ANN, FROM, MESSAGE, id};
use crate::support::client::Api;
use crate::support::inbound_client::Client;
use crate::support::site::Site;

/// Returns the number of stored messages with the subject of [`MESSAGE`].
async fn submitted(api: &Api) -> usize {
    api.get("/v1/messages?subject=Hi").await.body["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn outage_is_a_temporary_refusal() {
    let mut site = Site::start().await;
    site.wait_until_working().await;
    let mut client = Client::connect(site.submission()).await;
    assert!(client.sign_in(&site.api.key).await.starts_with("235"));
    let mut waiting = Client::connect(site.submission()).await;
    assert!(waiting.sign_in(&site.api.key).await.starts_with("235"));
    waiting.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(waiting.codes(3).await, [250, 250, 354]);

    site.postgres.kill().await;
    site.wait_for_fault().await;
    let reply = waiting.say(&format!("{MESSAGE}.\r\n")).await;
    assert!(reply.starts_with("451 4.3.0 unavailable: The database "), "{reply}");
    let reply = client.submit(FROM, &[ANN], MESSAGE).await;
    assert!(reply.starts_with("451 4.3.0 unavailable: The database "), "{reply}");
    let other = Client::connect(site.submission()).await.sign_in(&site.api.key).await;
    assert!(other.starts_with("235") || other.starts_with("454 4.7.0 unavailable: "), "{other}");

    site.postgres.start_again().await;
    site.wait_until_working().await;
    assert_eq!(submitted(&site.api).await, 0);
    id(&client.submit(FROM, &[ANN], MESSAGE).await);
    assert_eq!(submitted(&site.api).await, 1);
    site.end().await;
}
