//! Tests of explanations of failed attempts, and of messages that cannot be prepared.

use super::*;

#[test]
fn deferred_recipient_names_its_unreachable_destination() {
    let mut entry = entry();
    entry.due_at = Some(at(20));
    entry.lane.unreachable =
        Some(Unreachable { cause: Some(Cause::Auth), reply: Some("535 5.7.8 bad".into()), ..unreachable() });
    entry.lane.open_at = Some(at(30));
    let explained = explain(&tried(Status::Deferred, 535, "bad"), Some(&entry), now());
    assert_eq!((explained.blocker.kind, explained.blocker.next_attempt_at), (Kind::RetryWait, Some(at(30))));
    for text in
        ["2 attempts failed", "rejects the login, since 1970-01-01T00:03:00Z", "probe is due at 1970-01-01T00:30:00Z"]
    {
        assert!(explained.summary.contains(text), "{}", explained.summary);
    }
    assert!(explained.unblock[0].action.starts_with("Fix the user name"), "{:?}", explained.unblock);
    assert!(explained.unblock[1].action.starts_with("Once that is fixed"), "{:?}", explained.unblock);
}

#[test]
fn greylisting_advises_to_wait() {
    let mut entry = entry();
    entry.due_at = Some(at(20));
    let explained = explain(&tried(Status::Deferred, 451, "Greylisted, come back"), Some(&entry), now());
    assert_eq!((explained.unblock.len(), &explained.unblock[0].call), (1, &None));
    assert!(explained.summary.contains("That is greylisting"), "{}", explained.summary);
}

#[test]
fn unprepared_recipient_names_the_error_and_its_time() {
    let mut entry = entry();
    entry.due_at = Some(at(11));
    let error = "messages from domain acme.test cannot be signed: secret_key is not set".to_owned();
    entry.unprepared = Some(NotPrepared { error: error.clone(), since: at(4) });
    let explained = explained(&entry);
    assert_eq!(
        (explained.blocker.kind, explained.blocker.since, explained.blocker.rule),
        (Kind::Unprepared, Some(at(4)), Some(error))
    );
    assert!(
        explained.summary.contains("domain acme.test") && explained.summary.contains("00:04:00Z"),
        "{}",
        explained.summary
    );
    assert_eq!(explained.unblock[1].call.as_deref(), Some("POST /v1/lanes/lane_7/reset"));
}

#[test]
fn bounce_names_its_classification() {
    let bounce = BounceView { kind: "hard".into(), category: "unknown_user".into(), source: "smtp".into() };
    let bounced = Recipient { bounce: Some(bounce), ..tried(Status::Bounced, 550, "no such user") };
    let explained = explain(&bounced, None, now());
    assert!(explained.summary.contains("(hard/unknown_user)"), "{}", explained.summary);
}
