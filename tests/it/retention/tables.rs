//! Each table of the schema has a retention rule, so that none grows forever by oversight.

use postrider::db::retention::Class;
use postrider::db::retention::rules::{self, RULES, Rule};

use crate::support::app::TestApp;

async fn tables(app: &TestApp) -> Vec<String> {
    let query = "SELECT relname::text FROM pg_class
                 WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'messages'::regclass) AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1";
    sqlx::query_scalar(query).fetch_all(&mut app.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn every_table_has_a_retention_rule() {
    let app = TestApp::start().await;
    let tables = tables(&app).await;
    assert!(tables.len() > 40, "{tables:?}");
    let without: Vec<_> = tables.iter().filter(|table| rules::of(table).is_none()).collect();
    assert!(
        without.is_empty(),
        "{without:?} have no retention rule. Say in src/db/retention/rules.rs when their rows are deleted, write the code that does so \
         (src/db/retention/), and add a line to docs/retention.md."
    );
    let removed: Vec<_> = RULES.iter().filter(|(table, _)| !tables.contains(&(*table).to_owned())).collect();
    assert!(removed.is_empty(), "{removed:?} are not in the schema: remove their lines from src/db/retention/rules.rs");
}

#[tokio::test]
async fn classes_are_the_partitioned_tables() {
    let app = TestApp::start().await;
    let query = "SELECT relname::text FROM pg_class WHERE relkind = 'p' ORDER BY 1";
    let partitioned: Vec<String> =
        sqlx::query_scalar(query).fetch_all(&mut app.database.connect().await).await.unwrap();
    let mut listed: Vec<&str> = Class::ALL.iter().flat_map(|class| class.tables()).copied().collect();
    listed.sort_unstable();
    assert_eq!(partitioned, listed);
    for class in Class::ALL {
        assert!(class.tables().iter().all(|table| rules::of(table) == Some(Rule::Weeks(class))), "{class:?}");
    }
}
