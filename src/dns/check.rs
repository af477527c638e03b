//! Whether records are published.

use futures_util::StreamExt as _;
use futures_util::stream;

use super::Asker;
use crate::domain::publish::{Answer, Finding, Record, RecordType, is_meant, judge};

/// Questions at one time.
const AT_ONCE: usize = 8;

/// Asks for every record, and says what was found of each, in their order.
pub async fn check(dns: &Asker, records: Vec<Record>) -> Vec<Finding> {
    stream::iter(records).map(|record| one(dns, record)).buffered(AT_ONCE).collect().await
}

async fn one(dns: &Asker, record: Record) -> Finding {
    let (mut at, mut answer): (String, Answer) = (record.name.clone(), Ok(Vec::new()));
    for name in record.names() {
        answer = match record.kind {
            RecordType::Txt => dns.texts(&name).await,
            RecordType::Mx => dns.exchangers(&name).await,
        };
        at = name;
        // What is not answered may be there: its parent does not speak for it.
        if answer.as_ref().map_or(true, |found| found.iter().any(|value| is_meant(record.purpose, value))) {
            break;
        }
    }
    judge(record, &at, answer)
}
