//! Changes that commands such as `postrider keys create` make.

use serde_json::Value;
use sqlx::Row as _;

use crate::support::postgres::Database;
use crate::support::process;

#[tokio::test]
async fn keys_of_the_command_line_are_recorded() {
    let database = Database::new();
    let mut create = process::on(&database.url, &["keys", "create", "--name", "ops", "--scope", "admin"]);
    create.env_remove("SUDO_USER").env("USER", "ann");
    let secret = String::from_utf8(process::run(create).await.stdout).unwrap().trim().to_owned();
    let mut connection = database.connect().await;
    let query = "SELECT object, actor_name, source, result, after, a::text AS whole FROM audit_log a WHERE action = $1";
    let created = sqlx::query(query).bind("create_key").fetch_one(&mut connection).await.unwrap();
    let (key, after): (String, Value) = (created.get("object"), created.get("after"));
    let words = ["actor_name", "source", "result"].map(|column| created.get::<String, _>(column));
    assert_eq!(
        (words.as_slice(), &after["name"]),
        (["ann", "cli", "done"].map(str::to_owned).as_slice(), &Value::from("ops"))
    );
    assert!(!secret.is_empty() && !created.get::<String, _>("whole").contains(&secret));

    let revoked = process::run(process::on(&database.url, &["keys", "revoke", &key])).await;
    assert!(revoked.status.success(), "{}", process::stderr_of(&revoked));
    let revoked = sqlx::query(query).bind("revoke_key").fetch_one(&mut connection).await.unwrap();
    assert_eq!((revoked.get::<String, _>("object"), revoked.get::<String, _>("result")), (key, "done".to_owned()));
}
