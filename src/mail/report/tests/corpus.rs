//! Measures the parser on a labelled corpus outside the repository: `POSTRIDER_BOUNCE_CORPUS` names a folder with
//! messages and `labels.tsv`. Its tab-separated columns are `file`, failed or delayed recipients (separated by `,`),
//! the first digit of the status, and `hard`, `soft` or `other` (a block, or undetermined); `-` means none or unknown.
//! Only a bounce counts as a failure: the service ignores the recipients of other messages.
//!
//! `POSTRIDER_BOUNCE_CORPUS=… cargo test --lib -- --ignored --nocapture corpus`

use std::collections::BTreeSet;
use std::path::Path;

use crate::domain::bounce::BounceType;
use crate::domain::bounce::report::{Action, Report, ReportKind, ReportedRecipient};

/// The number of correct results, and the total.
struct Share(usize, usize);

impl Share {
    fn count(&mut self, is_right: bool) -> bool {
        (self.0, self.1) = (self.0 + usize::from(is_right), self.1 + 1);
        is_right
    }

    fn print(&self, what: &str) {
        println!("{what}: {} of {}", self.0, self.1);
    }
}

/// Returns the recipients whose delivery failed or is delayed.
fn failures(report: &Report) -> Vec<&ReportedRecipient> {
    let is_failure = |one: &&ReportedRecipient| matches!(one.action, Action::Failed | Action::Delayed);
    report.recipients.iter().filter(|_| report.kind == ReportKind::Dsn).filter(is_failure).collect()
}

/// Returns the first digit of a failure's status, and `hard`, `soft` or `other`.
fn judged(failure: &ReportedRecipient) -> (String, &'static str) {
    let code = failure.reply.code.and_then(|code| u8::try_from(code / 100).ok());
    let class = failure.reply.enhanced.map(|code| code.class).or(code);
    let class = class.unwrap_or(if failure.action == Action::Failed { 5 } else { 4 });
    let kind = match failure.judgement.map(|judgement| judgement.kind) {
        Some(BounceType::Hard) => "hard",
        Some(BounceType::Soft) | None => "soft",
        Some(BounceType::Block | BounceType::Undetermined) => "other",
    };
    (class.to_string(), kind)
}

#[test]
#[ignore = "needs a labelled corpus: POSTRIDER_BOUNCE_CORPUS=DIR cargo test --lib -- --ignored --nocapture corpus"]
fn corpus_is_measured() {
    let folder = std::env::var("POSTRIDER_BOUNCE_CORPUS").expect("POSTRIDER_BOUNCE_CORPUS");
    let folder = Path::new(&folder);
    let labels = std::fs::read_to_string(folder.join("labels.tsv")).expect("labels.tsv");
    let [mut found, mut class, mut finality, mut is_hard] = [const { Share(0, 0) }; 4];
    for line in labels.lines() {
        let [file, recipients, digit, kind] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let report = crate::mail::report::read(&std::fs::read(folder.join(file)).expect(file));
        let expected: BTreeSet<String> = recipients.split(',').map(str::to_lowercase).filter(|to| to != "-").collect();
        let named = |one: &ReportedRecipient| {
            [Some(&one.recipient), one.original.as_ref(), one.behind.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
        };
        let failures = failures(&report);
        let got: BTreeSet<String> = failures.iter().flat_map(|one| named(one)).map(|to| to.to_lowercase()).collect();
        let is_found = if expected.is_empty() {
            failures.is_empty()
        } else {
            expected.is_subset(&got) && failures.len() <= expected.len()
        };
        let (got_class, got_kind) = failures.first().map_or(("-".into(), "-"), |one| judged(one));
        let mut is_right = found.count(is_found);
        is_right &= digit == "-" || class.count(got_class == digit);
        is_right &= kind == "-" || finality.count(got_kind == kind);
        is_right &= kind == "-" || is_hard.count((got_kind == "hard") == (kind == "hard"));
        if !is_right {
            println!("{line}\n   {} {} {got:?} {got_class} {got_kind}", report.kind.as_str(), report.rule);
            for one in &report.recipients {
                println!(
                    "   {:?} {:?} {:?} {:.200?}",
                    one.judgement, one.reply.code, one.reply.enhanced, one.reply.text
                );
            }
        }
    }
    found.print("recipients found");
    class.print("status class");
    finality.print("hard, soft or other");
    is_hard.print("hard or not");
}
