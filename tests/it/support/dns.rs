//! A scriptable DNS server over UDP. Names that the test does not define do not exist.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The records of one name.
#[derive(Default)]
struct Entry {
    records: Vec<RData>,
    failure: Option<ResponseCode>,
    /// The type for which queries get SERVFAIL.
    broken: Option<RecordType>,
    silent: bool,
}

type Zone = Arc<Mutex<HashMap<Name, Entry>>>;

/// The server; it stops when it is dropped.
pub struct DnsServer {
    address: SocketAddr,
    zone: Zone,
    task: JoinHandle<()>,
}

impl DnsServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Zone::default();
        let task = tokio::spawn(serve(socket, zone.clone()));
        Self { address, zone, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.change(domain, |entry| entry.records.push(RData::MX(MX::new(preference, name(host)))));
    }

    /// Adds a null MX (RFC 7505).
    pub fn null_mx(&self, domain: &str) {
        self.mx(domain, 0, ".");
    }

    pub fn add_address(&self, host: &str, ip: &str) {
        let data = match ip.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        self.change(host, |entry| entry.records.push(data));
    }

    /// Replaces the addresses of a host.
    pub fn set_address(&self, host: &str, ip: &str) {
        self.change(host, |entry| entry.records.retain(|data| !matches!(data, RData::A(_) | RData::AAAA(_))));
        self.add_address(host, ip);
    }

    pub fn cname(&self, alias: &str, host: &str) {
        self.change(alias, |entry| entry.records.push(RData::CNAME(CNAME(name(host)))));
    }

    /// Replaces the TXT records of a name.
    pub fn txt<const N: usize>(&self, host: &str, texts: [&str; N]) {
        self.change(host, |entry| {
            entry.records.retain(|data| !matches!(data, RData::TXT(_)));
            entry.records.extend(texts.map(|text| RData::TXT(TXT::new(strings(text)))));
        });
    }

    /// Adds the PTR record of an address.
    pub fn ptr(&self, ip: &str, host: &str) {
        let reverse = Name::from(ip.parse::<IpAddr>().unwrap()).to_ascii();
        self.change(&reverse, |entry| entry.records.push(RData::PTR(PTR(name(host)))));
    }

    /// Removes the records of a name.
    pub fn remove_records(&self, host: &str) {
        self.change(host, |entry| entry.records.clear());
    }

    /// Adds a name without records.
    pub fn empty(&self, domain: &str) {
        self.change(domain, |_| ());
    }

    pub fn servfail(&self, domain: &str) {
        self.change(domain, |entry| entry.failure = Some(ResponseCode::ServFail));
    }

    /// Makes the server refuse queries for a name.
    pub fn refuses(&self, domain: &str) {
        self.change(domain, |entry| entry.failure = Some(ResponseCode::Refused));
    }

    /// Makes the server return SERVFAIL for the name's IPv6 addresses only.
    pub fn servfail_for_ipv6(&self, domain: &str) {
        self.change(domain, |entry| entry.broken = Some(RecordType::AAAA));
    }

    /// Ends all faults of a name.
    pub fn repair(&self, domain: &str) {
        self.change(domain, |entry| (entry.failure, entry.broken, entry.silent) = (None, None, false));
    }

    /// Makes the server not respond to queries for a name.
    pub fn silent(&self, domain: &str) {
        self.change(domain, |entry| entry.silent = true);
    }

    fn change(&self, domain: &str, change: impl FnOnce(&mut Entry)) {
        change(self.zone.lock().unwrap().entry(name(domain)).or_default());
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Splits a text into the strings of a TXT record, each of at most 255 bytes.
fn strings(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec![String::new()];
    }
    text.as_bytes().chunks(255).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

async fn serve(socket: UdpSocket, zone: Zone) {
    let mut buffer = [0; 4_096];
    while let Ok((count, client)) = socket.recv_from(&mut buffer).await {
        let Ok(request) = Message::from_vec(&buffer[..count]) else { continue };
        let Some(response) = respond(request, &zone) else { continue };
        let _ = socket.send_to(&response.to_vec().unwrap(), client).await;
    }
}

fn respond(request: Message, zone: &Zone) -> Option<Message> {
    let query = request.queries.first()?.clone();
    let mut response = request.into_response();
    response.metadata.recursion_available = true;
    let zone = zone.lock().unwrap();
    let mut owner = query.name().clone();
    response.metadata.response_code = ResponseCode::NXDomain;
    // Follows a limited number of CNAME records, as a resolver does.
    for _ in 0..8 {
        let Some(entry) = zone.get(&owner) else { break };
        if entry.silent {
            return None;
        }
        let broken = entry.broken == Some(query.query_type());
        let failure = entry.failure.or(broken.then_some(ResponseCode::ServFail));
        response.metadata.response_code = failure.unwrap_or(ResponseCode::NoError);
        let mut alias = None;
        for data in &entry.records {
            if let RData::CNAME(target) = data {
                alias = Some(target.0.clone());
            } else if data.record_type() != query.query_type() {
                continue;
            }
            // Tests change TXT records, so they must not be cached.
            let ttl = if matches!(data, RData::TXT(_)) { 0 } else { 60 };
            response.add_answer(Record::from_rdata(owner.clone(), ttl, data.clone()));
        }
        match alias {
            Some(target) => owner = target,
            None => break,
        }
    }
    Some(response)
}
