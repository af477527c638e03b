//! The DNS server of the recipients' domains: every name below `bench.test` has the sink as its only mail exchanger.
//! Other names do not exist.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::MX;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use crate::bench::client::mail::RECIPIENTS;

/// TTL of the records, in seconds: longer than most runs.
const TTL: u32 = 3_600;

/// Starts the server, and returns its address.
pub(super) async fn start(sink: IpAddr) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((sink, 0)).await?;
    let address = socket.local_addr()?;
    let zone = Zone::new(sink).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 4_096];
        loop {
            // An error means that a client has closed its socket.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(response) = zone.respond(&buffer[..length]) {
                let _ = socket.send_to(&response, client).await;
            }
        }
    });
    Ok(address)
}

struct Zone {
    origin: Name,
    exchanger: Name,
    address: IpAddr,
}

impl Zone {
    fn new(address: IpAddr) -> Option<Self> {
        let name = |text: String| Name::from_ascii(text).ok();
        Some(Self { origin: name(format!("{RECIPIENTS}."))?, exchanger: name(format!("mx.{RECIPIENTS}."))?, address })
    }

    /// Returns the response; `None` if the packet is not a query.
    fn respond(&self, question: &[u8]) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        let query = request.queries.first()?.clone();
        let mut response = request.into_response();
        response.metadata.recursion_available = true;
        // Names that begin with `_` are those of MTA-STS records, which do not exist here.
        let exists = self.origin.zone_of(query.name()) && !query.name().to_ascii().starts_with('_');
        response.metadata.response_code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let data = match (query.query_type(), self.address) {
            (RecordType::MX, _) => Some(RData::MX(MX::new(10, self.exchanger.clone()))),
            (RecordType::A, IpAddr::V4(ip)) => Some(RData::A(ip.into())),
            (RecordType::AAAA, IpAddr::V6(ip)) => Some(RData::AAAA(ip.into())),
            _ => None,
        };
        if let Some(data) = data.filter(|_| exists) {
            response.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
        }
        response.to_vec().ok()
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Query;

    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let zone = Zone::new("127.0.0.1".parse().unwrap()).unwrap();
        Message::from_vec(&zone.respond(&question.to_vec().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn every_domain_has_the_sink_as_its_mail_exchanger() {
        assert_eq!(query("d00042.bench.test.", RecordType::MX).answers.len(), 1);
        assert_eq!(query("mx.bench.test.", RecordType::A).answers.len(), 1);
        assert_eq!(query("mx.bench.test.", RecordType::AAAA).answers.len(), 0);
        for name in ["example.test.", "_mta-sts.d00042.bench.test."] {
            assert_eq!(query(name, RecordType::TXT).metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
    }
}
