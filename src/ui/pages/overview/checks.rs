//! What was looked at for problems: a page must not say that all is well if it did not look.

use serde::de::{DeserializeOwned, IgnoredAny};

use super::problems::{Problem, domain_problem, held_problem, lane_problems, webhook_problem};
use crate::ui::call::Listed;
use crate::ui::error::UiError;
use crate::ui::format::number;
use crate::ui::session::Visitor;

/// Maximum number of entries of each kind that are looked at.
const MAX_ENTRIES: usize = 1_000;

/// What was looked at, and what is wrong.
#[derive(Default)]
pub(super) struct Checks {
    pub problems: Vec<Problem>,
    /// What was looked at and is in order, such as "no lane is stopped".
    fine: Vec<String>,
    /// What this key may not see.
    hidden: Vec<&'static str>,
    /// What was not looked at, or not completely, in sentences.
    pub gaps: Vec<String>,
}

/// A kind of entries.
struct Kind {
    /// Its name, such as `webhooks`.
    name: &'static str,
    /// What is said if none of them has a problem.
    fine: &'static str,
    path: &'static str,
    filter: &'static [(&'static str, &'static str)],
}

const LANES: Kind =
    Kind { name: "lanes", fine: "no lane is stopped", path: "/v1/lanes", filter: &[("waiting", "true")] };
const HELD: Kind =
    Kind { name: "held messages", fine: "no message is held", path: "/v1/messages", filter: &[("held", "true")] };
const WEBHOOKS: Kind = Kind { name: "webhooks", fine: "no webhook fails", path: "/v1/webhooks", filter: &[] };
const DOMAINS: Kind = Kind { name: "domains", fine: "no domain lacks its records", path: "/v1/domains", filter: &[] };

impl Checks {
    /// Looks at everything that the visitor's key may see.
    pub(super) async fn run(visitor: &Visitor) -> Result<Self, UiError> {
        let mut checks = Self::default();
        if visitor.sees_all {
            checks.look(visitor, &LANES, |lanes| lanes.data.iter().flat_map(lane_problems).collect()).await?;
        } else {
            checks.hidden.push(LANES.name);
        }
        // One page is enough: the problem is one for all of them.
        let held = |held: &Listed<IgnoredAny>| held_problem(held.data.len(), held.has_more).into_iter().collect();
        checks.look_at(visitor, &HELD, 100, held).await?;
        if visitor.sees_all {
            checks.look(visitor, &WEBHOOKS, |hooks| hooks.data.iter().filter_map(webhook_problem).collect()).await?;
        } else {
            checks.hidden.push(WEBHOOKS.name);
        }
        checks.look(visitor, &DOMAINS, |domains| domains.data.iter().filter_map(domain_problem).collect()).await?;
        Ok(checks)
    }

    async fn look<T: DeserializeOwned>(
        &mut self,
        visitor: &Visitor,
        kind: &Kind,
        problems: impl FnOnce(&Listed<T>) -> Vec<Problem>,
    ) -> Result<(), UiError> {
        self.look_at(visitor, kind, MAX_ENTRIES, problems).await
    }

    async fn look_at<T: DeserializeOwned>(
        &mut self,
        visitor: &Visitor,
        kind: &Kind,
        max: usize,
        problems: impl FnOnce(&Listed<T>) -> Vec<Problem>,
    ) -> Result<(), UiError> {
        let list = visitor.get_list(kind.path, kind.filter, max).await?;
        let problems = problems(&list);
        match &list.fault {
            Some(fault) => self.gaps.push(format!("{} could not be read: {fault}", capitalized(kind.name))),
            None if !problems.is_empty() => {}
            None if list.has_more => {
                let max = number(i64::try_from(max).unwrap_or(i64::MAX));
                self.fine.push(format!("{} of the first {max} {}", kind.fine, kind.name));
            }
            None => self.fine.push(kind.fine.to_owned()),
        }
        self.problems.extend(problems);
        Ok(())
    }

    /// Returns whether everything was looked at and nothing is wrong.
    pub(super) fn is_all_fine(&self) -> bool {
        self.problems.is_empty() && self.gaps.is_empty() && self.hidden.is_empty()
    }

    /// Returns what is in order, as a sentence. Empty if nothing is.
    pub(super) fn fine(&self) -> String {
        if self.fine.is_empty() { String::new() } else { format!("{}.", capitalized(&joined(&self.fine))) }
    }

    /// Returns what this key may not see, as a sentence. Empty if it may see everything.
    pub(super) fn hidden(&self) -> String {
        if self.hidden.is_empty() {
            String::new()
        } else {
            format!("Not visible to this key: {}.", self.hidden.join(", "))
        }
    }
}

fn joined(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [one, other] => format!("{one} and {other}"),
        [first @ .., last] => format!("{}, and {last}", first.join(", ")),
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_names_only_what_was_looked_at() {
        let checks =
            |fine: &[&str]| Checks { fine: fine.iter().map(ToString::to_string).collect(), ..Checks::default() };
        for (fine, sentence) in [
            (&[][..], ""),
            (&["no message is held"][..], "No message is held."),
            (&["no message is held", "no webhook fails"], "No message is held and no webhook fails."),
            (&["no a", "no b", "no c"], "No a, no b, and no c."),
        ] {
            assert_eq!(checks(fine).fine(), sentence);
        }
    }
}
