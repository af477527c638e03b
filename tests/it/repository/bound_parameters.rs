//! Checks that long SQL statements bind each parameter to the value with its name.
//!
//! Parameters have numbers, which can be mixed up. In a statement with more than ten, every parameter has a
//! name: the column at its position in `unnest($1, $2) AS u (a, b)`, or a comment, `$1 /* name */`. The bound
//! expression has to contain that name.

use std::collections::BTreeMap;

use super::layers::sources;

/// Statements with more parameters than this must name all of them.
const MAX_UNNAMED: usize = 10;

/// A statement and the expressions that it binds.
pub(super) struct Statement {
    pub(super) sql: String,
    arguments: Vec<String>,
}

/// Returns the calls of sqlx's macros in a file.
pub(super) fn statements(code: &str) -> Vec<Statement> {
    let calls = code.split("sqlx::query").skip(1);
    let calls = calls.filter_map(|call| call.split_once("!(").filter(|(name, _)| !name.contains(' ')));
    let parts = calls.map(|(_, rest)| arguments(rest));
    parts.filter_map(statement).collect()
}

fn statement(mut parts: Vec<String>) -> Option<Statement> {
    // The type of the rows may precede the SQL.
    let at = parts.iter().position(|part| part.starts_with('"') || part.starts_with("r#\""))?;
    let arguments = parts.split_off(at + 1);
    Some(Statement { sql: parts.pop()?, arguments })
}

/// Returns the arguments of a call. `code` starts after the opening parenthesis.
fn arguments(code: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0);
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            'r' if rest.starts_with("r#\"") => rest.find("\"#").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            _ => c.len_utf8(),
        };
        let (token, remainder) = rest.split_at(length);
        rest = remainder;
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push_str(token);
    }
    parts.push(part.trim().to_owned());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Returns the length of the string literal at the start of the text.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

/// Returns the numbers of the parameters, each with the text after it.
fn parameters(sql: &str) -> impl Iterator<Item = (usize, &str)> {
    sql.split('$').skip(1).filter_map(|text| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        Some((text[..end].parse().ok()?, &text[end..]))
    })
}

/// Returns the names of the parameters. The name of a column starts with a dot.
fn names(sql: &str) -> BTreeMap<usize, String> {
    let mut names = BTreeMap::new();
    for (number, rest) in parameters(sql) {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":[]".contains(c));
        if let Some((name, _)) = rest.strip_prefix(" /* ").and_then(|comment| comment.split_once(" */")) {
            names.insert(number, name.to_owned());
        }
    }
    for call in sql.split("unnest(").skip(1) {
        let Some((columns, alias)) = call.split_once(')') else { continue };
        let alias = alias.trim_start().trim_start_matches("WITH ORDINALITY").trim_start();
        let list = alias.strip_prefix("AS ").and_then(|alias| alias.split_once('(')?.1.split_once(')'));
        for ((number, _), name) in parameters(columns).zip(list.map_or("", |(list, _)| list).split(',')) {
            names.insert(number, format!(".{}", name.trim()));
        }
    }
    names
}

/// Returns whether a bound expression contains this name; for a column, as its last field.
fn is_named(argument: &str, name: &str) -> bool {
    let argument = argument.trim_end_matches(" as _");
    if name.starts_with('.') {
        return argument.ends_with(name);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    argument
        .match_indices(name)
        .any(|(at, _)| !argument[..at].ends_with(is_name) && !argument[at + name.len()..].starts_with(is_name))
}

fn faults(statement: &Statement) -> Vec<String> {
    let names = names(&statement.sql);
    let fault = |(at, argument): (usize, &String)| match names.get(&(at + 1)) {
        None => Some(format!("${} has no name; it is bound to {argument}", at + 1)),
        Some(name) if !is_named(argument, name) => Some(format!("${} is {name}, and is bound to {argument}", at + 1)),
        Some(_) => None,
    };
    statement.arguments.iter().enumerate().filter_map(fault).collect()
}

#[test]
fn long_statements_bind_each_parameter_to_its_name() {
    let mut wrong = Vec::new();
    let mut long = 0;
    for (path, text) in sources() {
        for statement in statements(&text).iter().filter(|statement| statement.arguments.len() > MAX_UNNAMED) {
            long += 1;
            wrong.extend(faults(statement).into_iter().map(|fault| format!("{}: {fault}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(long >= 5, "only {long} statements were found");
}

#[test]
fn swapped_and_unnamed_parameters_are_found() {
    let code = r##"let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO a SELECT u.x, $3 /* now */ FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS u (x, y, n)
           WHERE $4"#,
        &columns.y,
        &columns.y as _,
        f(now, 1),
        "x",
    )"##;
    let [statement] = &statements(code)[..] else { panic!("expected one statement") };
    assert_eq!(statement.arguments, ["&columns.y", "&columns.y as _", "f(now, 1)", "\"x\""]);
    assert_eq!(faults(statement), ["$1 is .x, and is bound to &columns.y", "$4 has no name; it is bound to \"x\""]);
}
