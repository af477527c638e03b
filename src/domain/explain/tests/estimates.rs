//! Tests of estimates.

use super::*;

#[test]
fn rate_gives_an_estimate() {
    let mut entry = entry();
    entry.lane.limits.rate = Some(0.5);
    entry.lane.open_at = Some(at(11));
    entry.ahead = Some(messages(60));
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(13)), Basis::Limit), "{}", estimate.explanation);
    entry.ahead = Some(Count { number: 60, is_more: true });
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::Limit));
    assert!(estimate.explanation.starts_with("Not before 2 min from now"), "{}", estimate.explanation);
}

#[test]
fn throughput_gives_an_estimate_without_a_rate() {
    let mut entry = entry();
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(now()), Basis::Schedule), "it is the next message");

    entry.ahead = Some(messages(120));
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::None), "the throughput was not measured");
    assert_eq!(estimate.explanation, "120 messages of its lane are before it; the lane's throughput was not measured.");
    entry.throughput = Some(Throughput { messages: 0, events: 500, seconds: 50.0 });
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert!(estimate.explanation.ends_with("none of the newest 500 events was a sent message of this lane."));

    entry.throughput = Some(Throughput { messages: 100, events: 500, seconds: 50.0 });
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(11)), Basis::LaneRate));
    assert_eq!(
        estimate.explanation,
        "If nothing else blocks it: 120 messages of its lane are before it, at 2 messages per second: of the newest 500 events, 100 were \
         sent messages of this lane, within 50 s."
    );
}
