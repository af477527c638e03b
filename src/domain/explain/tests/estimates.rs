//! When a waiting recipient will be sent.

use super::*;

#[test]
fn rate_gives_an_estimate() {
    let mut place = place();
    place.lane.limits.rate = Some(0.5);
    place.lane.open_at = Some(at(11));
    place.ahead = Some(messages(60));
    let estimate = explained(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(13)), Basis::Limit), "{}", estimate.explanation);
    place.ahead = Some(Count { number: 60, is_more: true });
    let estimate = explained(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::Limit));
    assert!(estimate.explanation.starts_with("Not before 2 min from now"), "{}", estimate.explanation);
}

#[test]
fn throughput_gives_an_estimate_without_a_rate() {
    let mut place = place();
    let estimate = explained(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(now()), Basis::Schedule), "it is the next");

    place.ahead = Some(messages(120));
    let estimate = explained(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::None), "nothing is known of the lane");
    assert_eq!(estimate.explanation, "120 messages of its lane are before it; the lane's throughput was not measured.");
    place.pace = Some(Pace { mails: 0, events: 500, seconds: 50.0 });
    let estimate = explained(&place).estimate.expect("an estimate");
    assert!(estimate.explanation.ends_with("of the newest 500 events none was a message of this lane that was sent."));

    place.pace = Some(Pace { mails: 100, events: 500, seconds: 50.0 });
    let estimate = explained(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(11)), Basis::LaneRate));
    assert_eq!(
        estimate.explanation,
        "If nothing else blocks it: 120 messages of its lane are before it, at 2 messages per second: of the newest 500 events, 100 were \
         messages of this lane that were sent, within 50 s."
    );
}
