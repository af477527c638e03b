//! Connections to a Postgres that offers TLS.

use crate::support::certificate::Certificate;
use crate::support::own_postgres::OwnPostgres;
use crate::support::process::{postrider, run, stderr_of};

/// Switches TLS on. Postgres writes the files itself, because it accepts only a key that no other user can read.
async fn offer_tls(postgres: &OwnPostgres, certificate: &Certificate) {
    let (chain, key, _dir) = certificate.as_files();
    for (file, name) in [(chain, "server.crt"), (key, "server.key")] {
        let pem = std::fs::read_to_string(file).unwrap();
        let lines = format!("SELECT unnest(string_to_array('{pem}', chr(10)))");
        postgres.sql("postgres", &format!("COPY ({lines}) TO PROGRAM 'umask 077 && cat > {name}'")).await;
    }
    postgres.sql("postgres", "ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()").await;
}

#[tokio::test]
async fn database_certificate_is_verified() {
    let (trusted, other) = (Certificate::valid_for("127.0.0.1"), Certificate::valid_for("127.0.0.1"));
    let postgres = OwnPostgres::start().await;
    let url = postgres.database("tls").await;
    offer_tls(&postgres, &trusted).await;
    let migrate = async |ca: &Certificate| {
        let (file, _dir) = ca.as_ca_file();
        let tls = format!("sslmode=verify-full&sslrootcert={}", file.display());
        let mut command = postrider(&["migrate"]);
        command.env("DATABASE_URL", url.replace("sslmode=disable", &tls));
        run(command).await
    };
    let accepted = migrate(&trusted).await;
    assert!(accepted.status.success(), "{}", stderr_of(&accepted));
    let refused = migrate(&other).await;
    assert!(
        !refused.status.success() && stderr_of(&refused).contains("invalid peer certificate"),
        "{}",
        stderr_of(&refused)
    );
}
