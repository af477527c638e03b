//! `postrider serve`: API and worker against a database.

use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use super::signals::Signals;
use crate::app::{self, App, Roles};
use crate::clock::DatabaseClock;
use crate::config::{Config, Route, SecretUrl};
use crate::db::schema;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run only one role; any number of processes of each role can share a database
    #[arg(long, value_enum)]
    only: Option<Role>,
    /// Bring the schema up to date first
    #[arg(long)]
    migrate: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Api,
    Worker,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<ExitCode> {
    // Before the start, which may wait for the schema: the first process of a container ignores signals without handlers.
    let mut signals = Signals::listen()?;
    let roles = match args.only {
        None => Roles::All,
        Some(Role::Api) => Roles::Api,
        Some(Role::Worker) => Roles::Worker,
    };
    let app = tokio::select! {
        app = Box::pin(start(&config, roles, args.migrate)) => app?,
        () = signals.next() => {
            tracing::info!(event = "stopped", "stopped before the service had started");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let address = app.api_address().map(tracing::field::display);
    let public = app.public_address().map(tracing::field::display);
    let inbound = app.inbound_address().map(tracing::field::display);
    let metrics = app.ops_address().map(tracing::field::display);
    let sends = outgoing_routes(&config);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        event = "started",
        address,
        public,
        inbound,
        metrics,
        ?roles,
        sends,
        version,
        "postrider is running"
    );
    signals.stop_requested().await;
    app.stop().await;
    tracing::info!(event = "stopped", "stopped");
    Ok(ExitCode::SUCCESS)
}

async fn start(config: &Config, roles: Roles, migrate: bool) -> anyhow::Result<App> {
    if migrate {
        let db = app::database(config)?;
        let ran = schema::migrate(&db).await?;
        tracing::info!(event = "schema_up_to_date", ran, "schema is up to date");
        db.close().await;
    }
    App::start(config, roles, Arc::new(DatabaseClock::default()), None).await
}

/// Describes the routes of outgoing messages, without credentials. The last part is for messages that match no route.
fn outgoing_routes(config: &Config) -> String {
    let to = |route: &Route| {
        let relays: Vec<String> = route.relays.iter().map(SecretUrl::to_string).collect();
        if route.is_direct() { "direct to MX".to_owned() } else { relays.join(", ") }
    };
    let routes = config.routes.iter().map(|(name, route)| format!("route {name}: {}; ", to(route)));
    let rest = match &config.relay_url {
        Some(relay) => format!("through the relay {relay}"),
        None => "direct to MX, since relay_url is not set".to_owned(),
    };
    routes.collect::<String>() + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_line_has_every_route_and_no_password() {
        let mut config = Config::default();
        assert_eq!(outgoing_routes(&config), "direct to MX, since relay_url is not set");
        let url = |text: &str| SecretUrl::from(text.to_owned());
        config.relay_url = Some(url("smtp://user:hunter2@relay.example:587?tls=required"));
        config.routes.insert("own".into(), Route { relays: vec![url("mx")], ..Route::default() });
        let news = vec![url("smtps://u:hunter2@a.example"), url("smtps://b.example")];
        config.routes.insert("news".into(), Route { relays: news, ..Route::default() });
        assert_eq!(
            outgoing_routes(&config),
            "route news: smtps://a.example, smtps://b.example; route own: direct to MX; \
             through the relay smtp://relay.example:587"
        );
    }
}
