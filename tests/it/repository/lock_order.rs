//! Checks that statements which lock several rows lock them in the order of their keys, or skip locked ones. Two transactions
//! that lock the same rows in different orders may wait for each other.

use super::bound_parameters::statements;
use super::layers::sources;

/// The clauses that lock rows. `FOR KEY SHARE` only conflicts with the deletion of a row.
const CLAUSES: [&str; 3] = ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE"];
/// What a query has that may find several rows by their keys.
const SEVERAL: [&str; 4] = ["ANY (", "IN (", "unnest(", "JOIN "];

/// Returns the text of the query that ends at this position: from the parenthesis that opens it.
fn query_before(sql: &str, end: usize) -> &str {
    let mut depth = 0;
    for (at, c) in sql[..end].char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth == 0 => return &sql[at + 1..end],
            '(' => depth -= 1,
            _ => {}
        }
    }
    &sql[..end]
}

/// Returns whether the clause that ends a query may lock several rows in any order.
fn is_unordered(query: &str, after: &str) -> bool {
    let after = after.trim_start();
    let after =
        after.strip_prefix("OF ").map_or(after, |rest| rest.trim_start_matches(|c: char| c != ' ').trim_start());
    let has_key = query.contains("= $") && !SEVERAL.iter().any(|part| query.contains(part));
    !has_key && !query.contains("ORDER BY") && !after.starts_with("SKIP LOCKED")
}

/// Returns the queries of a statement that may lock several rows in any order.
fn unordered(sql: &str) -> Vec<String> {
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = CLAUSES.iter().flat_map(|clause| sql.match_indices(clause).map(|(at, found)| (at, at + found.len())));
    let found = found.map(|(at, end)| (query_before(&sql, at), &sql[end..]));
    found.filter(|(query, after)| is_unordered(query, after)).map(|(query, _)| query.to_owned()).collect()
}

#[test]
fn statements_lock_rows_in_the_order_of_their_keys() {
    let (mut wrong, mut locking) = (Vec::new(), 0);
    for (path, text) in sources() {
        for statement in statements(&text) {
            locking += usize::from(CLAUSES.iter().any(|clause| statement.sql.contains(clause)));
            wrong.extend(unordered(&statement.sql).into_iter().map(|query| format!("{}: {query}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(locking >= 50, "only {locking} statements were found");
}

#[test]
fn unordered_locks_are_found() {
    for (sql, count) in [
        ("SELECT a FROM t WHERE b < now() FOR UPDATE", 1),
        ("SELECT a FROM t WHERE b = ANY ($1)\n FOR NO KEY UPDATE OF t", 1),
        ("SELECT a FROM t WHERE b = ANY ($1) ORDER BY b FOR UPDATE", 0),
        ("SELECT a FROM t WHERE b = $1 FOR SHARE", 0),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t WHERE b < $1 FOR UPDATE OF t SKIP LOCKED)", 0),
        ("SELECT a FROM (SELECT a FROM t WHERE b < $1 FOR UPDATE) u ORDER BY a", 1),
    ] {
        assert_eq!(unordered(sql).len(), count, "{sql}");
    }
}
