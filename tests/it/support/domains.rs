//! Sender domains: registers them, publishes their records, and verifies signatures with mail-auth as a receiver does.

use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use postrider::config::Config;
use serde_json::{Value, json};

use super::app::{TestApp, TestAppBuilder};
use super::client::Api;
use super::dns::DnsServer;

pub const SECRET: &str = "a secret that is long enough for this test";

/// Returns a builder of an application with a secret key and this DNS server.
pub fn with_secret(dns: &DnsServer) -> TestAppBuilder {
    let address = dns.address();
    TestApp::builder().config(move |config: &mut Config| {
        config.dns = Some(address);
        config.secret_key = Some(SECRET.to_owned().into());
    })
}

/// Registers a domain, and returns it.
pub async fn registered(api: &Api, name: &str) -> Value {
    let response = api.post("/v1/domains", &json!({"name": name})).await;
    assert_eq!(response.status, 201, "{}", response.body);
    assert_eq!(response.headers["location"], format!("/v1/domains/{}", name.to_lowercase()));
    response.body
}

/// Returns the domain as the API shows it.
pub async fn shown(api: &Api, name: &str) -> Value {
    let response = api.get(&format!("/v1/domains/{name}")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Verifies the records of the domain, and returns the response.
pub async fn checked(api: &Api, name: &str) -> Value {
    let response = api.post(&format!("/v1/domains/{name}/verify"), &json!(null)).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Returns the records of a domain for this purpose.
pub fn records<'a>(domain: &'a Value, purpose: &str) -> Vec<&'a Value> {
    domain["records"].as_array().unwrap().iter().filter(|record| record["purpose"] == purpose).collect()
}

/// Publishes all records of a domain exactly as listed, and the address of the host that they name.
pub fn publish(dns: &DnsServer, domain: &Value) {
    dns.set_address("postrider.test", "192.0.2.1");
    for record in domain["records"].as_array().unwrap() {
        let text = |field: &str| record[field].as_str().unwrap();
        match text("type") {
            "TXT" => dns.txt(text("name"), [text("value")]),
            "MX" => {
                let (preference, host) = text("value").split_once(' ').unwrap();
                dns.mx(text("name"), preference.parse().unwrap(), host);
            }
            other => panic!("{other}"),
        }
    }
}

/// Returns the selector, the algorithm and the state of each key.
pub fn keys(domain: &Value) -> Vec<(String, String, String)> {
    let text = |key: &Value, field: &str| key[field].as_str().unwrap().to_owned();
    let key = |key: &Value| (text(key, "selector"), text(key, "algorithm"), text(key, "state"));
    domain["keys"].as_array().unwrap().iter().map(key).collect()
}

/// Returns for each signature of a message its domain, its selector, and whether it verifies.
pub async fn signatures(dns: &DnsServer, mime: &[u8]) -> Vec<(String, String, bool)> {
    let verifier = MessageAuthenticator(postrider::dns::resolver(Some(dns.address())).unwrap());
    let message = AuthenticatedMessage::parse(mime).expect("a message");
    let outputs = verifier.verify_dkim(&message).await;
    let one = |output: &mail_auth::DkimOutput<'_>| {
        let signature = output.signature().expect("a valid signature field");
        (signature.d.clone(), signature.s.clone(), *output.result() == DkimResult::Pass)
    };
    outputs.iter().map(one).collect()
}
