//! Each question of `docs/questions.md` in a situation that raises it: the call on the page has the answer.

mod delivery;
mod operation;
mod sending;

use std::collections::BTreeSet;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::app::TestApp;

const PAGE: &str = include_str!("../../../docs/questions.md");
/// The questions, each with the file that asks it.
const ASKED: [(&str, &str); 3] = [
    ("sending", include_str!("sending.rs")),
    ("delivery", include_str!("delivery.rs")),
    ("operation", include_str!("operation.rs")),
];

/// Returns the call that answers a question.
fn call(question: usize) -> &'static str {
    let (_, section) = PAGE.split_once(&format!("\n## {question}. ")).unwrap_or_else(|| panic!("question {question}"));
    let section = section.split("\n## ").next().expect("a section");
    let (_, block) = section.split_once("\n```sh\n").unwrap_or_else(|| panic!("no call in question {question}"));
    block.split("\n```").next().expect("a block")
}

/// Runs the call that answers a question, and returns its output. `None`, with the reason on standard error, if a program
/// that it needs is missing.
async fn answer(question: usize, app: &TestApp, id: &str) -> Option<String> {
    answer_with(question, app, id, &[]).await
}

/// Like [`answer`], with more environment variables.
async fn answer_with(question: usize, app: &TestApp, id: &str, more: &[(&str, &str)]) -> Option<String> {
    for program in ["bash", "curl", "psql"] {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if found.is_err() {
            eprintln!("skipped: the answers need {program}");
            return None;
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_postrider")).parent().expect("a directory").display();
    let mut command = Command::new("bash");
    command.args(["-c", call(question)]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.env("PATH", format!("{programs}:{path}")).env("ID", id).env("DATABASE_URL", &app.database.url);
    command.env("API", &app.api().base).env("KEY", &app.api().key).env("ADMIN_KEY", &app.api().key);
    command.env("POSTRIDER_LOG__FILTER", "error").envs(more.iter().copied());
    let output = command.output().await.expect("a shell");
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_question_is_asked() {
    let numbers = PAGE.lines().filter_map(|line| line.strip_prefix("## ")?.split_once(". ")?.0.parse().ok());
    let numbers: Vec<usize> = numbers.collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let asked = ASKED.iter().flat_map(|(_, text)| text.split("answer").skip(1));
    let asked: BTreeSet<usize> = asked
        .filter_map(|rest| {
            let rest = rest.trim_start_matches("_with").strip_prefix('(')?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
        .collect();
    assert_eq!(asked, numbers.into_iter().collect());
}
