//! The examples of `docs/enqueue-in-sql.md` in psql, Python and Ruby. Each is skipped without the program that it needs.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{accepted, inbox_is_empty, sender};
use crate::support::app::TestApp;
use crate::support::python;

const PAGE: &str = include_str!("../../../docs/enqueue-in-sql.md");

/// Returns the code blocks of one language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    PAGE.split(fence.as_str()).skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

/// Returns the ids in a text.
fn ids(text: &str) -> Vec<String> {
    let is_id = |word: &&str| word.starts_with("msg_") && word.len() == 36;
    text.split_whitespace().filter(is_id).map(str::to_owned).collect()
}

/// Lets the role of the tests' database send.
async fn grant(app: &TestApp) {
    drop(sender(&app.database).await);
    let grant = "INSERT INTO sql_senders (role, tenant_id, created_at) SELECT current_user, id, now() FROM tenants;
                 CREATE TABLE orders (id integer, email text)";
    super::execute(&mut app.database.connect().await, grant).await;
}

#[tokio::test]
async fn psql_examples_work() {
    let app = TestApp::start().await;
    grant(&app).await;
    let script = blocks("sql").join("\n;\n") + "\n;INSERT INTO orders VALUES (44, 'cy@example.com');";
    let run = Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command", &script, &app.database.url])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let Ok(output) = run else {
        eprintln!("skipped: this test needs psql");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    inbox_is_empty(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 3);
}

#[tokio::test]
async fn sqlalchemy_example_works() {
    let Some(python) = python::with_packages(&["sqlalchemy==2.0.44", "pg8000==1.31.5"], "sqlalchemy, pg8000").await
    else {
        return;
    };
    let app = TestApp::start().await;
    grant(&app).await;
    let url = app.database.url.replacen("postgres://", "postgresql+pg8000://", 1);
    // The driver does not know the parameters.
    let url = url.split('?').next().unwrap();
    let example = blocks("python").join("\n");
    let script = format!("import sys\nDATABASE_URL = sys.argv[1]\n{example}");
    let run = Command::new(python).args(["-c", &script, url]).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = run.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ids = ids(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(ids.len(), 1);
    accepted(&app, &ids[0]).await;
}

/// Runs a script, with the host, the port, the database, the user and the password as arguments. Checks that it prints the id of a
/// message, which is accepted with its order.
async fn check_example(app: &TestApp, mut program: Command, script: &str) {
    let url = url::Url::parse(&app.database.url).unwrap();
    let (host, port) = (url.host_str().unwrap(), url.port().unwrap().to_string());
    let name = url.path().trim_start_matches('/');
    let arguments = ["-", host, &port, name, url.username(), url.password().unwrap_or_default()];
    program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ids = ids(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(ids.len(), 1);
    accepted(app, &ids[0]).await;
    let order = "SELECT count(*) FROM orders WHERE email = 'ed@example.com'";
    let orders: i64 = sqlx::query_scalar(order).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(orders, 1);
}

#[tokio::test]
async fn django_example_works() {
    let packages = ["django==5.2.8", "psycopg[binary]==3.2.13"];
    let Some(python) = python::with_packages(&packages, "django, psycopg").await else { return };
    let app = TestApp::start().await;
    grant(&app).await;
    let settings = r#"
import sys
import django
from django.conf import settings
_, host, port, name, user, password = sys.argv
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "NAME": name, "USER": user, "PASSWORD": password}})
django.setup()
from django.db import models

class Order(models.Model):
    email = models.TextField()
    class Meta:
        app_label = "shop"
        db_table = "orders"

order = Order(id=47, email="ed@example.com")
"#;
    check_example(&app, Command::new(python), &format!("{settings}{}", blocks("py").join("\n"))).await;
}

#[tokio::test]
async fn rails_example_works() {
    let mut probe = Command::new("ruby");
    probe.args(["-e", "require 'active_record'; require 'pg'"]).stderr(Stdio::null()).kill_on_drop(true);
    if !probe.status().await.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this test needs ruby with activerecord and pg");
        return;
    }
    let app = TestApp::start().await;
    grant(&app).await;
    let settings = r#"
require "active_record"
host, port, name, user, password = ARGV
ActiveRecord::Base.establish_connection(
  adapter: "postgresql", host: host, port: port, database: name, username: user, password: password)
class Order < ActiveRecord::Base; end
order = Order.new(id: 48, email: "ed@example.com")
"#;
    check_example(&app, Command::new("ruby"), &format!("{settings}{}", blocks("ruby").join("\n"))).await;
}
