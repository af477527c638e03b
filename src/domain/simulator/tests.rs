use proptest::prelude::*;

use super::*;

fn script(local: &str) -> Script {
    Script::parse(local).unwrap_or_else(|error| panic!("{local}: {error}"))
}

fn enhanced(text: &str) -> EnhancedCode {
    text.parse().unwrap()
}

/// Returns the steps of the first `attempts` attempts, each made a day after the first was due.
fn played(local: &str, attempts: u32) -> Vec<String> {
    (1..=attempts).map(|number| script(local).step(number, TimeDelta::days(1)).to_string()).collect()
}

#[test]
fn documented_scripts_are_parsed() {
    let refusal = |code, text| Refusal { code, enhanced: enhanced(text) };
    for (local, step) in [
        ("delivered", Step::Delivered),
        ("relayed", Step::Relayed),
        ("bounce", Step::Bounce(refusal(550, "5.1.1"))),
        ("bounce-550-5.7.1", Step::Bounce(refusal(550, "5.7.1"))),
        ("bounce-552", Step::Bounce(refusal(552, "5.0.0"))),
        ("bounce-data", Step::BounceData(refusal(554, "5.0.0"))),
        ("bounce-data-554", Step::BounceData(refusal(554, "5.0.0"))),
        ("bounce-data-554-5.7.1", Step::BounceData(refusal(554, "5.7.1"))),
        ("dsn", Step::Dsn(enhanced("5.1.1"))),
        ("dsn-5.2.2", Step::Dsn(enhanced("5.2.2"))),
        ("defer-3", Step::Defer(3, refusal(451, "4.3.0"))),
        ("defer-2-421-4.7.0", Step::Defer(2, refusal(421, "4.7.0"))),
        ("greylist", Step::Greylist),
        ("expired", Step::Expired),
        ("drop-after-dot", Step::DropAfterDot),
        ("drop-connect", Step::DropConnect),
        ("drop-rcpt", Step::DropRcpt),
        ("tls-fail", Step::TlsFail),
        ("dns-fail", Step::DnsFail),
        ("slow-5s", Step::Slow(Duration::from_secs(5))),
        ("complaint", Step::Complaint(Duration::ZERO)),
        ("complaint-1h", Step::Complaint(Duration::from_hours(1))),
        ("auto-reply", Step::AutoReply),
        ("suppressed", Step::Suppressed),
        ("unsubscribe", Step::Unsubscribe),
        // Names of other services, in any case and with a label.
        ("Success+1", Step::Delivered),
        ("BOUNCED", Step::Bounce(refusal(550, "5.1.1"))),
        ("Hard_Bounce+a+b", Step::Bounce(refusal(550, "5.1.1"))),
        ("SoftBounce", Step::Expired),
        ("DnsError", Step::DnsFail),
        ("complained+x.y", Step::Complaint(Duration::ZERO)),
        ("ooto", Step::AutoReply),
        ("suppressionlist", Step::Suppressed),
    ] {
        assert_eq!(script(local).steps, [step], "{local}");
    }
}

#[test]
fn steps_play_one_attempt_after_the_other() {
    assert_eq!(
        played("defer-2.drop-after-dot", 4),
        ["defer-2-451-4.3.0", "defer-2-451-4.3.0", "drop-after-dot", "delivered"]
    );
    assert_eq!(played("tls-fail.bounce-550-5.7.1", 3), ["tls-fail", "bounce-550-5.7.1", "bounce-550-5.7.1"]);
    assert_eq!(played("defer-1-451-4.7.1.dsn-5.2.2", 2), ["defer-1-451-4.7.1", "dsn-5.2.2"]);
    assert_eq!(played("dns-fail.expired", 3), ["dns-fail", "expired", "expired"]);
    assert_eq!(script("delivered").step(0, TimeDelta::zero()), Step::Delivered);
}

#[test]
fn greylisting_ends_after_the_first_attempt_and_a_minute() {
    let at = |number, seconds| script("greylist").step(number, TimeDelta::seconds(seconds));
    assert_eq!(
        [at(1, 0), at(2, 59), at(2, 60), at(1, 500)],
        [Step::Greylist, Step::Greylist, Step::Delivered, Step::Greylist]
    );
}

#[test]
fn greylisting_may_take_several_attempts() {
    let at = |number, seconds| script("defer-1.greylist.bounce").step(number, TimeDelta::seconds(seconds)).to_string();
    assert_eq!(
        [at(1, 0), at(2, 10), at(3, 20), at(4, 60), at(5, 90)],
        ["defer-1-451-4.3.0", "greylist", "greylist", "bounce-550-5.1.1", "bounce-550-5.1.1"]
    );
}

#[test]
fn wrong_scripts_are_refused_with_the_fix() {
    let error = |local: &str| Script::parse(local).expect_err(local).to_string();
    for local in [
        "",
        "+",
        "bouncee",
        "bounce-",
        "bounce-450",
        "bounce-550-4.1.1",
        "bounce-550-5.1",
        "bounce-550-5.7.1-x",
        "bounce-data554",
        "dsn-2.0.0",
        "defer",
        "defer-0",
        "defer-100",
        "defer-01",
        "defer-2-550",
        "slow",
        "slow-0s",
        "slow-61s",
        "slow-1m",
        "complaint-",
        "complaint-0s",
        "complaint-8d",
        "complaint-1y",
        "delivered-1",
        "defer-1..bounce",
        "defer-1.",
        "\"bounce\"",
        "é",
    ] {
        let message = error(local);
        assert!(message.contains("is not a script") && message.contains("`complaint-1h`"), "{local}: {message}");
    }
    assert!(error("bounce.delivered").contains("`bounce-550-5.1.1` ends the message"));
    assert!(error("defer-1.suppressed").contains("the only step"));
    for local in ["greylist.defer-1", "defer-1.greylist.tls-fail.bounce", "greylist.greylist"] {
        assert!(error(local).contains("`greylist` must be the last step before"), "{local}: {}", error(local));
    }
    assert!(error(&["tls-fail"; 9].join(".")).contains("at most 8 steps"));
}

#[test]
fn only_the_simulators_domain_has_scripts() {
    let of = |address: &str| Script::from_address(&address.parse().unwrap()).map(|script| script.is_ok());
    assert_eq!(of("bounce@simulator.postrider.test"), Some(true));
    assert_eq!(of("ann+bounce@Simulator.Postrider.TEST"), Some(false));
    assert_eq!(of("bounce@x.simulator.postrider.test"), None);
    assert_eq!(of("bounce@example.test"), None);
    assert!(is_suppressed("suppressed+1@simulator.postrider.test") && !is_suppressed("suppressed@example.test"));
    assert!(!is_suppressed("delivered@simulator.postrider.test"));
}

fn any_step() -> impl Strategy<Value = Step> {
    let refusal = |class: u8| {
        (0_u16..100, 0_u16..1_000, 0_u16..1_000).prop_map(move |(code, subject, detail)| Refusal {
            code: u16::from(class) * 100 + code,
            enhanced: EnhancedCode { class, subject, detail },
        })
    };
    prop_oneof![
        prop::sample::select(syntax::PLAIN.map(|(_, step)| step).to_vec()),
        refusal(5).prop_map(Step::Bounce),
        refusal(5).prop_map(Step::BounceData),
        refusal(5).prop_map(|refusal| Step::Dsn(refusal.enhanced)),
        (1..=MAX_DEFERRALS, refusal(4)).prop_map(|(attempts, refusal)| Step::Defer(attempts, refusal)),
        (1..=MAX_WAIT.as_secs()).prop_map(|seconds| Step::Slow(Duration::from_secs(seconds))),
        (0..=MAX_DELAY.as_secs()).prop_map(|seconds| Step::Complaint(Duration::from_secs(seconds))),
    ]
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,80}", number in 0_u32..20, seconds in -100_i64..1_000_000) {
        if let Ok(script) = Script::parse(&text) {
            script.step(number, TimeDelta::seconds(seconds));
        }
    }

    #[test]
    fn text_near_the_syntax_is_parsed_or_refused(text in "(bounce|defer|dsn|slow|complaint|[.+_-]|[0-9a-z]){0,12}") {
        if let Ok(script) = Script::parse(&text) {
            prop_assert_eq!(Script::parse(&script.to_string()), Ok(script));
        }
    }

    #[test]
    fn script_round_trips(steps in prop::collection::vec(any_step(), 1..=MAX_STEPS)) {
        let script = Script { steps };
        let is_valid = script.steps.iter().rev().skip(1).all(|step| !step.ends())
            && script.steps.windows(2).all(|pair| pair[0] != Step::Greylist || pair[1].ends())
            && (script.steps.len() == 1 || !script.steps.contains(&Step::Suppressed));
        let parsed = Script::parse(&script.to_string());
        prop_assert_eq!(parsed.ok(), is_valid.then_some(script));
    }
}
