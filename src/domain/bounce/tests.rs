//! Classifies the replies of real servers in `replies.txt`.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Parses a line of `replies.txt`: type, category and reply.
fn parse(line: &str) -> (&str, &str, Reply) {
    let (expected, reply) = line.split_once('|').unwrap();
    let (kind, category) = expected.trim().split_once(' ').unwrap();
    let reply = reply.trim();
    let (digits, text) = reply.split_once(' ').unwrap_or((reply, ""));
    let reply = if let Ok(code) = digits.parse() {
        Reply::from_lines(code, text.split('\\'))
    } else {
        let text = reply.strip_prefix("- ").unwrap_or(reply).replace('\\', "\n");
        let enhanced = text.split(' ').next().and_then(|word| word.parse().ok());
        Reply { enhanced, ..Reply::local_error(text) }
    };
    (kind, category, reply)
}

#[test]
fn replies_of_real_servers_are_classified() {
    let lines = include_str!("replies.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines {
        let (kind, category, reply) = parse(line);
        let judgement = judge(&reply);
        count += 1;
        if (judgement.kind.as_str(), judgement.category.as_str()) != (kind, category) {
            wrong.push(format!("{judgement:?} for: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 150);
}

#[test]
fn rule_names_are_unique_and_phrases_are_normalised() {
    let mut names = HashSet::new();
    for rule in rules::RULES.iter().copied().flatten() {
        assert!(names.insert(rule.name), "duplicate rule {}", rule.name);
        assert!(rule.category != Category::UnknownUser || rule.kind == BounceType::Hard, "{}", rule.name);
        for phrase in rule.words.iter().chain(rule.without) {
            let pieces = phrase.split('*').map(Text::new).zip(phrase.split('*'));
            for (text, piece) in pieces {
                assert!(!piece.is_empty() && text.has(piece), "{phrase} is not normalised and never matches");
            }
        }
    }
    let names_of_categories: HashSet<&str> = Category::ALL.iter().map(|category| category.as_str()).collect();
    assert_eq!(names_of_categories.len(), Category::ALL.len());
}

#[test]
fn only_a_permanently_unknown_user_suppresses() {
    let suppresses = |code, text: &str| judge(&Reply::from_lines(code, [text].into_iter())).suppresses();
    assert!(suppresses(550, "5.1.1 user unknown"));
    assert!(!suppresses(450, "4.1.1 user unknown"));
    assert!(!suppresses(550, "5.2.1 account disabled"));
    assert!(!suppresses(550, "5.1.2 no such domain"));
    let from_dsn = |enhanced: &str| {
        judge(&Reply { enhanced: enhanced.parse().ok(), ..Reply::local_error("user unknown") }).suppresses()
    };
    assert!(from_dsn("5.1.1") && !from_dsn("4.1.1"));
}

proptest! {
    #[test]
    fn any_reply_is_accepted(code in 0_u16..700, text in "\\PC{0,200}", number in 0_u16..1_000) {
        let _ = judge(&Reply::from_lines(code, [text.as_str(), &format!("5.{number}.1 {text}")].into_iter()));
        let _ = judge(&Reply::local_error(text));
    }

    #[test]
    fn temporary_refusal_never_suppresses(code in 400_u16..500, text in "\\PC{0,50}") {
        let text = format!("{text} user unknown");
        prop_assert!(!judge(&Reply::from_lines(code, [text.as_str()].into_iter())).suppresses());
    }
}
