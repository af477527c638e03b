//! `postrider serve`: API and worker against a database.

use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use super::signals::Signals;
use super::systemd;
use crate::app::{self, App, Roles, WithHint as _};
use crate::clock::DatabaseClock;
use crate::config::{Config, Route, SecretUrl};
use crate::db::pool::session;
use crate::db::schema;
use crate::telemetry::traces;

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
    ReadOnlyApi,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<ExitCode> {
    // Before the start, which may wait for the schema: the first process of a container ignores signals without handlers.
    let mut signals = Signals::listen()?;
    let roles = match args.only {
        None => Roles::All,
        Some(Role::Api) => Roles::Api,
        Some(Role::Worker) => Roles::Worker,
        Some(Role::ReadOnlyApi) => Roles::ReadOnlyApi,
    };
    let traces = start_traces();
    // From here on, because the start may wait for the schema.
    let _watchdog = systemd::watchdog();
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
    let submission = app.submission_address().map(tracing::field::display);
    let submission_tls = app.submission_tls_address().map(tracing::field::display);
    let metrics = app.ops_address().map(tracing::field::display);
    let sends = outgoing_routes(&config);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        event = "started",
        address,
        public,
        inbound,
        submission,
        submission_tls,
        metrics,
        ?roles,
        sends,
        version,
        "postrider is running"
    );
    systemd::notify(systemd::READY);
    signals.stop_requested().await;
    systemd::notify(systemd::STOPPING);
    app.stop().await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    tracing::info!(event = "stopped", "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Starts to export traces, if the environment asks for it. The service runs without them if they cannot be exported.
fn start_traces() -> Option<traces::Exporter> {
    traces::start().unwrap_or_else(|error| {
        tracing::error!(event = "traces_off", %error, "cannot export traces; running without them; correct the OTEL_* variable and restart");
        None
    })
}

async fn start(config: &Config, roles: Roles, migrate: bool) -> anyhow::Result<App> {
    if migrate && roles == Roles::ReadOnlyApi {
        return Err(anyhow::anyhow!("a process that only reads cannot migrate the database"))
            .with_hint("leave out --migrate, and run `postrider migrate` on the primary");
    }
    if migrate {
        let db = app::database(config)?;
        let check = || session::check_direct(&db);
        match check().await {
            Err(error) if error.is_outage() => {
                tracing::warn!(event = "waiting_for_database", %error, "the database is not available; waiting until it is");
                app::poll_database(check).await?;
            }
            checked => checked?,
        }
        let ran = schema::migrate(&db).await?;
        tracing::info!(event = "schema_up_to_date", ran, "schema is up to date");
        db.close().await;
    }
    if !config.restore_guard.enabled {
        tracing::warn!(
            event = "restore_guard_off",
            "the restore guard is switched off: a restored or copied database sends again what was sent already"
        );
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
