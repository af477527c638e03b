//! Tests of the restore guard's rules.

use super::*;

const RULES: Rules<'_> = Rules { name: None, max_silence: Duration::from_mins(15) };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn branch(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Returns a database that was in use ten seconds ago, with its mark 100.
fn observed(change: impl FnOnce(&mut Observation)) -> Observation {
    let place = Place { system_identifier: Some(7), database_oid: 16_384, table_oid: 20_000 };
    let mut observed = Observation {
        installation: Some(Uuid::nil()),
        name: Some("production".into()),
        hold: None,
        epoch: at(0),
        mark: 100,
        marked_at: Some(at(990)),
        branch: Some(branch(7)),
        earlier_branches: BTreeMap::from([(branch(5), 40), (branch(6), 70)]),
        event_seq: 50,
        marked_place: Some(place),
        place,
        timeline: Some(1),
        lsn: Some(5_000),
        replayed_lsn: None,
        is_commit_lost: false,
        is_standby: false,
        started_at: at(1),
        heartbeat_at: Some(at(985)),
        now: at(1_000),
    };
    change(&mut observed);
    observed
}

/// Returns what a process remembers of the same database.
fn memory() -> Mark {
    let (installation, epoch, number, at) = (Uuid::nil(), at(0), 100, at(990));
    let branch = Some(branch(7));
    Mark { installation, epoch, number, at, timeline: Some(1), lsn: Some(4_900), event_seq: 50, branch }
}

fn reason(observed: &Observation, memory: Option<&Mark>) -> Option<HoldReason> {
    match decide(observed, memory, RULES) {
        Finding::Holds(hold) => Some(hold.reason),
        _ => None,
    }
}

#[test]
fn restart_crash_and_synchronous_failover_go_on() {
    let promoted = |replayed| observed(|now| (now.timeline, now.replayed_lsn) = (Some(2), Some(replayed)));
    for (case, now) in [
        ("restart", observed(|_| {})),
        ("more marks", observed(|now| (now.mark, now.lsn, now.event_seq) = (101, Some(6_000), 60))),
        ("long crash", observed(|now| now.now = at(90_000))),
        ("synchronous failover", promoted(4_901)),
        ("synchronous failover, restarted since", observed(|now| now.timeline = Some(2))),
    ] {
        assert_eq!(reason(&now, Some(&memory())), None, "{case}");
    }
}

#[test]
fn restored_and_rolled_back_databases_hold() {
    let promoted = |replayed| observed(|now| (now.timeline, now.replayed_lsn) = (Some(2), Some(replayed)));
    for (case, now, why) in [
        ("lost tail", promoted(4_900), HoldReason::LostTail),
        ("lost commit", observed(|now| (now.timeline, now.is_commit_lost) = (Some(2), true)), HoldReason::LostTail),
        ("lost mark", observed(|now| (now.timeline, now.mark) = (Some(2), 99)), HoldReason::LostTail),
        ("rolled back", observed(|now| now.mark = 99), HoldReason::RolledBack),
        ("WAL is shorter", observed(|now| now.lsn = Some(4_900)), HoldReason::RolledBack),
        ("rows restored", observed(|now| now.event_seq = 49), HoldReason::RolledBack),
        ("earlier timeline", observed(|now| now.timeline = Some(0)), HoldReason::RolledBack),
        ("other server", observed(|now| now.place.system_identifier = Some(8)), HoldReason::Moved),
        ("other database", observed(|now| now.place.database_oid += 1), HoldReason::Moved),
        ("other table", observed(|now| now.place.table_oid += 1), HoldReason::Moved),
    ] {
        assert_eq!(reason(&now, Some(&memory())), Some(why), "{case}");
    }
}

#[test]
fn marks_after_a_rollback_do_not_hide_it() {
    let of = |number, branch: Option<Uuid>| Mark { number, branch, lsn: None, event_seq: 0, ..memory() };
    for (case, mark, is_held) in [
        ("the end of an earlier branch", of(70, Some(branch(6))), false),
        ("before the end of an earlier branch", of(40, Some(branch(6))), false),
        ("after the end of an earlier branch", of(71, Some(branch(6))), true),
        ("the oldest branch", of(41, Some(branch(5))), true),
        ("a branch that is missing", of(90, Some(branch(9))), true),
        ("a version without branches", of(90, None), false),
    ] {
        assert_eq!(reason(&observed(|_| {}), Some(&mark)), is_held.then_some(HoldReason::RolledBack), "{case}");
    }
    let many = observed(|now| {
        now.earlier_branches = (0..32_u8).map(|n| (branch(100 + u128::from(n)), 50 + i64::from(n))).collect();
    });
    assert_eq!(reason(&many, Some(&of(50, Some(branch(6))))), None, "it may have ended before those that are kept");
    assert_eq!(reason(&many, Some(&of(51, Some(branch(6))))), Some(HoldReason::RolledBack));
    let unused = observed(|now| (now.branch, now.earlier_branches) = (None, BTreeMap::new()));
    assert_eq!(reason(&unused, Some(&of(90, None))), None, "before the first process with branches");
}

#[test]
fn without_memory_an_old_heartbeat_holds() {
    let silent = |seconds: i64, change: fn(&mut Observation)| {
        observed(|now| {
            now.now = at(990 + seconds);
            change(now);
        })
    };
    assert_eq!(reason(&silent(900, |_| {}), None), None);
    assert_eq!(reason(&silent(901, |_| {}), None), Some(HoldReason::Stale));
    assert_eq!(reason(&silent(901, |_| {}), Some(&memory())), None, "a crash that the memory explains");
    assert_eq!(reason(&silent(901, |now| now.heartbeat_at = None), None), None, "the workers stopped properly");
    let unmarked = |now: &mut Observation| (now.marked_at, now.marked_place) = (None, None);
    assert_eq!(reason(&silent(910, unmarked), None), Some(HoldReason::Stale), "a dump of an earlier version");
}

#[test]
fn memory_of_the_last_mark_ends_a_hold_because_of_silence() {
    let held = |reason, change: fn(&mut Observation)| {
        observed(|now| {
            now.now = at(5_000);
            now.hold = Some(Hold { reason, since: at(4_000), detail: String::new() });
            change(now);
        })
    };
    let stale = |change| held(HoldReason::Stale, change);
    assert_eq!(reason(&stale(|_| {}), Some(&memory())), None, "all processes were killed");
    assert_eq!(reason(&stale(|_| {}), None), Some(HoldReason::Stale));
    assert_eq!(reason(&stale(|now| now.mark = 99), Some(&memory())), Some(HoldReason::Stale), "it is older");
    assert_eq!(reason(&stale(|now| now.place.table_oid += 1), Some(&memory())), Some(HoldReason::Stale));
    assert_eq!(reason(&held(HoldReason::Moved, |_| {}), Some(&memory())), Some(HoldReason::Moved));
    let early = Mark { at: at(900), number: 10, ..memory() };
    assert_eq!(reason(&stale(|_| {}), Some(&early)), Some(HoldReason::Stale), "others used it later");
    assert_eq!(reason(&observed(|now| now.now = at(5_000)), Some(&early)), Some(HoldReason::Stale));
}

#[test]
fn release_makes_older_memories_void_and_later_ones_count() {
    let released = observed(|now| (now.epoch, now.mark) = (at(995), 40));
    assert_eq!(reason(&released, Some(&memory())), None);
    let before_release = Mark { epoch: at(10), number: 1, ..memory() };
    assert_eq!(reason(&observed(|_| {}), Some(&before_release)), Some(HoldReason::RolledBack));
    let other = Mark { installation: Uuid::max(), number: 900, ..memory() };
    assert_eq!(reason(&observed(|_| {}), Some(&other)), None, "the memory of another installation");
}

#[test]
fn configuration_of_another_installation_holds() {
    let decide = |name| decide(&observed(|_| {}), None, Rules { name, ..RULES });
    assert_eq!(decide(Some("production")), Finding::Sends);
    assert_eq!(decide(None), Finding::Sends);
    let Finding::Holds(hold) = decide(Some("staging")) else { panic!("it sends") };
    assert!(hold.reason == HoldReason::OtherInstallation && hold.detail.contains("`production`"), "{hold:?}");
    assert!(!hold.reason.is_shared() && HoldReason::Moved.is_shared());
}
