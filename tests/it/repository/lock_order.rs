//! Checks that statements which lock several rows lock them in the order of their keys, or skip locked ones. Two transactions
//! that lock the same rows in different orders may wait for each other.

use super::bound_parameters::statements;
use super::layers::sources;

/// The clauses that lock rows. `FOR KEY SHARE` only conflicts with the deletion of a row.
const CLAUSES: [&str; 3] = ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE"];
/// What a query has that may find several rows by their keys.
const SEVERAL: [&str; 5] = ["ANY (", "IN (", "unnest(", "JOIN ", " OR "];
/// Tables of which statements lock a row by its key, and the columns of the key.
static KEYS: [(&str, &[&str]); 16] = [
    ("bulks", &["tenant_id", "id"]),
    ("domains", &["tenant_id", "name"]),
    ("erasures", &["tenant_id", "id"]),
    // It has one row.
    ("installation", &[]),
    ("key_usage", &["key_id"]),
    ("lanes", &["tenant_id", "id"]),
    ("message_actions", &["tenant_id", "id"]),
    ("messages", &["tenant_id", "id"]),
    ("queue", &["tenant_id", "message_id", "recipient_id"]),
    ("recipients", &["tenant_id", "message_id", "id"]),
    ("statistics_cursors", &["tenant_id"]),
    ("streams", &["tenant_id", "name"]),
    ("templates", &["tenant_id", "id"]),
    ("tenant_usage", &["tenant_id"]),
    ("tenants", &["id"]),
    ("webhook_endpoints", &["tenant_id", "id"]),
];

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

/// Returns whether a condition sets a column, perhaps after the alias of its table, to a parameter.
fn names_column(condition: &str, column: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    condition.match_indices(&format!("{column} = $")).any(|(at, _)| !condition[..at].ends_with(is_name))
}

/// Returns whether a query names the whole key of each table that it reads, so that it locks one row.
fn has_key(query: &str) -> bool {
    let Some((tables, condition)) = query.rsplit_once(" FROM ").and_then(|(_, rest)| rest.split_once(" WHERE ")) else {
        return false;
    };
    let words = tables.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut keys = words.filter_map(|word| KEYS.iter().find(|(table, _)| *table == word)).peekable();
    keys.peek().is_some()
        && keys.all(|(_, key)| key.iter().all(|column| names_column(condition, column)))
        && !SEVERAL.iter().any(|part| tables.contains(part) || condition.contains(part))
}

/// Returns whether the clause that ends a query may lock several rows in any order.
fn is_unordered(query: &str, after: &str) -> bool {
    let after = after.trim_start();
    let after =
        after.strip_prefix("OF ").map_or(after, |rest| rest.trim_start_matches(|c: char| c != ' ').trim_start());
    let is_one = has_key(query) || query.trim_end().ends_with("LIMIT 1");
    !is_one && !query.contains("ORDER BY") && !after.starts_with("SKIP LOCKED")
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
        ("SELECT a FROM t WHERE b = $1 FOR SHARE", 1),
        ("SELECT a FROM t WHERE b = $1 LIMIT 1 FOR SHARE", 0),
        ("SELECT a FROM t WHERE b = $1 LIMIT 10 FOR SHARE", 1),
        ("SELECT a FROM lanes l WHERE l.tenant_id = $1 AND l.id = $2 FOR UPDATE", 0),
        ("SELECT a FROM lanes WHERE tenant_id = $1 FOR UPDATE", 1),
        ("SELECT a FROM queue WHERE lease = $1 AND NOT data_started FOR UPDATE", 1),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t WHERE b < $1 FOR UPDATE OF t SKIP LOCKED)", 0),
        ("SELECT a FROM (SELECT a FROM t WHERE b < $1 FOR UPDATE) u ORDER BY a", 1),
    ] {
        assert_eq!(unordered(sql).len(), count, "{sql}");
    }
}
