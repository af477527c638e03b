//! Tests of the precedence of sources and of the errors of an invalid configuration.

mod defaults;

use std::path::Path;
use std::time::Duration;

use super::sources::keys::Keys;
use super::sources::problem::Problems;
use super::sources::{file, load, variables};
use super::{Config, ConfigErrors, Format};
use crate::domain::network::Allowed;
use crate::domain::routing::relay::TlsMode;

/// Loads `toml` as the file `postrider.toml`, and `env` over it. Does not read a file or the environment of this
/// machine.
fn configured(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let keys = Keys::known();
    let mut problems = Problems::default();
    let mut settings = file::settings(toml, Path::new(file::DEFAULT), &keys, &mut problems);
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings.extend(variables::settings(env, &keys, &mut problems));
    load::merge(settings, problems)
}

fn valid_config(toml: &str, env: &[(&str, &str)]) -> Config {
    configured(toml, env).unwrap_or_else(|errors| panic!("{errors}"))
}

fn problems(toml: &str, env: &[(&str, &str)]) -> Vec<String> {
    let errors = configured(toml, env).expect_err("a problem");
    errors.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn defaults_apply_without_settings() {
    let config = valid_config("", &[("PATH", "/bin"), ("POSTRIDER_RELAY_URL", "")]);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert!(config.relay_url.is_none() && config.database.url.is_none());
}

#[test]
fn environment_wins_over_file_and_file_over_default() {
    let toml = "mx_port = 2525\n[accept]\nmax_recipients = 10\nmax_attachments = 5\n";
    let config = valid_config(toml, &[("POSTRIDER_ACCEPT__MAX_RECIPIENTS", "11"), ("POSTRIDER_MX_PORT", "1025")]);
    let accept = &config.accept;
    assert_eq!((config.mx_port, accept.max_recipients, accept.max_attachments), (1025, 11, 5));
    assert_eq!(accept.max_body_mib, 40);
}

#[test]
fn variable_is_parsed_as_the_type_of_its_key() {
    let config = valid_config(
        "",
        &[
            ("POSTRIDER_HOSTNAME", "123"),
            ("POSTRIDER_LOG__FORMAT", "json"),
            ("POSTRIDER_LOG__FILTER", "info,postrider::smtp=debug"),
            ("POSTRIDER_WEBHOOKS__ALLOW_PRIVATE", "true"),
            ("POSTRIDER_WEBHOOKS__ALLOW", "10.0.0.0/8, hooks.internal"),
            ("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "90s, 5m,1h"),
            ("POSTRIDER_DELIVERY__LEASE", "30"),
            ("POSTRIDER_RELAY_CA_FILE", "/etc/ca.pem"),
        ],
    );
    assert_eq!(config.hostname.as_deref(), Some("123"));
    assert_eq!(config.log.format, Format::Json);
    assert!(config.webhooks.allow_private && config.webhooks.allowed().rules.len() == 2);
    assert_eq!(config.delivery.retry_schedule, [90, 300, 3_600].map(Duration::from_secs));
    assert_eq!(config.delivery.lease, Duration::from_secs(30));
    assert_eq!(config.relay_ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
}

#[test]
fn bounce_settings_and_their_errors() {
    let config = valid_config(
        "[return_path]\ndomain = \"BÜCHER.test\"\nlifetime = \"30d\"\n[inbound]\nlisten = \"127.0.0.1:0\"\n",
        &[("POSTRIDER_INBOUND__FEEDBACK", "fbl@return.acme.test"), ("POSTRIDER_RETURN_PATH__VERP", "true")],
    );
    assert_eq!(config.return_path.domain_ascii().as_deref(), Some("xn--bcher-kva.test"));
    assert!(config.return_path.verp && config.inbound.max_message() == 50 << 20);
    let lines = problems(
        "[return_path]\ndomain = \"a b\"\nlifetime = \"1h\"\n[inbound]\nfeedback = \"nobody\"\nconnections = 0\n",
        &[("POSTRIDER_INBOUND__LISTEN", "here")],
    );
    assert_eq!(lines.len(), 5, "{lines:#?}");
    for key in
        ["return_path.domain", "return_path.lifetime", "inbound.feedback", "inbound.connections", "inbound.listen"]
    {
        assert!(lines.iter().any(|line| line.starts_with(key)), "{key}: {lines:#?}");
    }
}

#[test]
fn postrider_database_url_wins_over_database_url() {
    let url = |env: &[(&str, &str)]| valid_config("", env).database.url.expect("a URL").expose().to_owned();
    let plain = ("DATABASE_URL", "postgres://a@one/x");
    assert_eq!(url(&[plain]), plain.1);
    assert_eq!(url(&[("POSTRIDER_DATABASE__URL", "postgres://b@two/x"), plain]), "postgres://b@two/x");
}

#[test]
fn secrets_come_from_files_without_their_last_newline() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let database = secret("database", "postgres://u:pa%23%20ss@db/x\n");
    let relay = secret("relay", "smtp://u:p@relay");
    let config = valid_config("", &[("DATABASE_URL_FILE", &database), ("POSTRIDER_RELAY_URL_FILE", &relay)]);
    assert_eq!(config.database.url.expect("a URL").expose(), "postgres://u:pa%23%20ss@db/x");
    assert_eq!(config.relay_url.expect("a URL").expose(), "smtp://u:p@relay");
}

#[test]
fn duplicate_or_missing_secret_is_a_problem() {
    let env =
        [("DATABASE_URL", "postgres://db/x"), ("DATABASE_URL_FILE", "/f"), ("POSTRIDER_RELAY_URL_FILE", "/no/such")];
    assert_eq!(
        problems("", &env),
        [
            "database.url: DATABASE_URL is set as well: set one of the two (from DATABASE_URL_FILE)",
            "relay_url: cannot read /no/such: No such file or directory (os error 2) (from POSTRIDER_RELAY_URL_FILE)",
        ]
    );
}

#[test]
fn all_problems_are_reported_on_one_line_each() {
    let toml = "\
        listen = \"localhost:8080\"\n\
        relai_url = \"smtp://x\"\n\
        previous_secret_keys = \"hunter2, of 2026\"\n\
        accept = 5\n\
        [delivery]\n\
        lease = \"soon\"\n\
        [log]\n\
        format = \"xml\"\n";
    let env = [
        ("POSTRIDER_ACCEPT__MAX_BODY_MIB", "101"),
        ("POSTRIDER_ACCEPT__MAX_RECIPIENTS", "-1"),
        ("POSTRIDER_DELIVERY_CONCURRENCY", "9"),
        ("POSTRIDER_HOSTNAME", "mail\r\nRSET"),
        ("POSTRIDER_LOG__FILTER", "info,=,="),
        ("POSTRIDER_MX_PORT", "smtp"),
        ("POSTRIDER_RELAY_URL", "http://user:hunter2@relay"),
        ("POSTRIDER_SOMETHING_ELSE", "1"),
    ];
    let problems = problems(toml, &env);
    insta::assert_snapshot!(problems.join("\n"), @r#"
    accept: is a section: write [accept] (in postrider.toml)
    relai_url: unknown key; did you mean relay_url? (in postrider.toml)
    POSTRIDER_DELIVERY_CONCURRENCY: unknown variable; did you mean POSTRIDER_DELIVERY__CONCURRENCY?
    POSTRIDER_SOMETHING_ELSE: unknown variable
    delivery.lease: "soon" is not a duration such as 90s, 5m, 1h30m or 3d (in postrider.toml)
    listen: must be an IP address and a port, such as 127.0.0.1:8080 (in postrider.toml)
    log.format: must be text or json, is xml (in postrider.toml)
    previous_secret_keys: must be a list, is a text (in postrider.toml)
    accept.max_body_mib: must be between 1 and 100, is 101 (from POSTRIDER_ACCEPT__MAX_BODY_MIB)
    accept.max_recipients: must be a whole number from 0 to 4294967295, is -1 (from POSTRIDER_ACCEPT__MAX_RECIPIENTS)
    hostname: must be a domain name such as mail.example.net, or an [address] (from POSTRIDER_HOSTNAME)
    log.filter: is not a log filter such as `info,postrider::smtp=debug`: invalid filter directive (from POSTRIDER_LOG__FILTER)
    mx_port: must be a whole number from 0 to 65535, is "smtp" (from POSTRIDER_MX_PORT)
    relay_url: must start with smtp:// or smtps://, starts with http: (from POSTRIDER_RELAY_URL)
    "#);
    assert!(!problems.concat().contains("hunter2"));
}

#[test]
fn routes_come_from_the_file_and_from_variables() {
    let toml = "[routes.News]\nstreams = [\"bulk\"]\nrelays = [\"smtp://a\", \"smtps://b\"]\nca_file = \"/ca.pem\"\n\
                [routes.own]\nrelays = [\"mx\"]\n";
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("relays");
    std::fs::write(&path, "smtp://u:p@c\nsmtp://d\n").expect("written");
    let config = valid_config(
        toml,
        &[
            ("POSTRIDER_ROUTES__OWN__SENDER_DOMAINS", "acme.test, Bücher.test"),
            ("POSTRIDER_ROUTES__X_1__RELAYS_FILE", path.to_str().expect("UTF-8")),
            ("POSTRIDER_ROUTES__X_1__CA_FILE", "/x.pem"),
        ],
    );
    assert_eq!(config.routes.keys().collect::<Vec<_>>(), ["News", "own", "x_1"]);
    let (news, own, x) = (&config.routes["News"], &config.routes["own"], &config.routes["x_1"]);
    assert_eq!((news.streams.as_slice(), news.relays.len()), (["bulk".to_owned()].as_slice(), 2));
    assert_eq!(news.ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert!(own.is_direct() && !news.is_direct());
    assert_eq!(own.sender_domains_ascii(), ["acme.test", "xn--bcher-kva.test"]);
    let relays: Vec<_> = x.relays.iter().map(super::SecretUrl::expose).collect();
    assert_eq!((relays, x.ca_file.as_deref()), (vec!["smtp://u:p@c", "smtp://d"], Some(Path::new("/x.pem"))));
}

#[test]
fn problems_of_routes_are_reported() {
    let toml = "\
        routes.plain = 5\n\
        [routes.\"a b\"]\n\
        relays = [\"mx\"]\n\
        [routes.empty]\n\
        streams = [\"bulk\"]\n\
        [routes.news]\n\
        relay = [\"smtp://a\"]\n\
        relays = [\"smtp://a\", \"smtp://u:hunter2@b?tls=maybe\"]\n\
        streams = [\"bulk mail\"]\n\
        sender_domains = [\"@acme.test\"]\n\
        [routes.mixed]\n\
        relays = [\"mx\", \"smtp://a\"]\n";
    let problems = problems(toml, &[("POSTRIDER_ROUTES__NEWS__RELAIS", "smtp://x")]);
    insta::assert_snapshot!(problems.join("\n"), @r#"
    routes.a b: a route's name must be 1 to 64 letters, digits, - and _ (in postrider.toml)
    routes.news.relay: unknown key; did you mean routes.news.relays? (in postrider.toml)
    routes.plain: is a section: write [routes.plain] (in postrider.toml)
    POSTRIDER_ROUTES__NEWS__RELAIS: unknown variable; did you mean POSTRIDER_ROUTES__NEWS__RELAYS?
    routes.mixed.relays: must be relays, or only `mx` (in postrider.toml)
    routes.news.relays: relay 2 of 2 cannot be used: tls must be none, opportunistic or required, not "maybe" (in postrider.toml)
    routes.news.sender_domains: "@acme.test" is not a domain name such as example.net (in postrider.toml)
    routes.news.streams: "bulk mail" is not the name of a stream (in postrider.toml)
    routes.empty.relays: must name at least one relay, or `mx`
    "#);
    assert!(!problems.concat().contains("hunter2"));
}

#[test]
fn tls_is_set_per_domain() {
    let toml = "[delivery.tls]\n\"bank.test\" = \"verified\"\n\"*\" = \"required\"\n";
    let config = valid_config(toml, &[("POSTRIDER_DELIVERY__TLS", "Old.test=none,*=opportunistic")]);
    let modes: Vec<(String, TlsMode)> = config.delivery.tls_ascii().into_iter().collect();
    let expected = [("*", TlsMode::Opportunistic), ("bank.test", TlsMode::Verified), ("old.test", TlsMode::None)];
    assert_eq!(modes, expected.map(|(domain, mode)| (domain.to_owned(), mode)));
    for wrong in ["bank.test=maybe", "a b=none", "none"] {
        let problems = problems("", &[("POSTRIDER_DELIVERY__TLS", wrong)]);
        assert!(problems.len() == 1 && problems[0].starts_with("delivery.tls: "), "{problems:?}");
    }
}

#[test]
fn a_file_that_is_not_toml_names_its_line() {
    let problems = problems("mx_port = 25\nlisten 127.0.0.1\n", &[]);
    assert!(problems.len() == 1 && problems[0].starts_with("postrider.toml:2: "), "{problems:?}");
}

#[test]
fn contradicting_limits_are_a_problem() {
    valid_config("", &[("POSTRIDER_ACCEPT__MAX_BODY_MIB", "100"), ("POSTRIDER_ACCEPT__BODY_MEMORY_MIB", "200")]);
    let problems = problems("", &[("POSTRIDER_ACCEPT__MAX_BODY_MIB", "100")]);
    assert!(problems.len() == 1 && problems[0].starts_with("accept.body_memory_mib: must not be less"), "{problems:?}");
}

#[test]
fn variables_of_command_line_and_kubernetes_are_ignored() {
    valid_config(
        "",
        &[
            ("POSTRIDER_CONFIG", "x.toml"),
            ("POSTRIDER_URL", "https://mail.test"),
            ("POSTRIDER_API_KEY", "x"),
            ("POSTRIDER_API_KEY_FILE", "/no/such"),
            ("POSTRIDER_PORT", "tcp://10.0.0.1:8080"),
            ("POSTRIDER_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
        ],
    );
    assert_eq!(problems("", &[("POSTRIDER_PORT", "8080")]).len(), 1);
}

#[test]
fn named_file_must_exist() {
    let error = Config::load(Some(Path::new("/no/such.toml")), std::iter::empty()).expect_err("a problem");
    assert_eq!(error.to_string(), "/no/such.toml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn hostname_syntax_is_checked() {
    for name in ["localhost", "mail.example.net", "[192.0.2.1]", "[IPv6:2001:db8::1]", "a_b.example"] {
        assert_eq!(super::check_hostname(name), Ok(()), "{name}");
    }
    for name in ["", "a b", "a..b", "-a", "a\n", "[1.2.3]", "mäil.example", ".example"] {
        assert!(super::check_hostname(name).is_err(), "{name:?}");
    }
}

#[test]
fn private_mail_exchangers_are_allowed_by_flag_or_list() {
    let allowed = |toml: &str, env: &[(&str, &str)]| valid_config(toml, env).delivery.private_mx();
    let variable = "POSTRIDER_DELIVERY__ALLOW_PRIVATE_MX";
    assert_eq!(allowed("", &[]), Allowed::default());
    let all = Allowed { private: true, rules: Vec::new(), this_machine_only: false };
    assert_eq!(allowed("delivery.allow_private_mx = true", &[]), all);
    assert_eq!(allowed("", &[(variable, "true")]), all);
    let rules = ["10.0.0.0/8", "mx.internal"].map(|rule| rule.parse().unwrap()).to_vec();
    let listed = Allowed { private: false, rules, this_machine_only: false };
    assert_eq!(allowed(r#"delivery.allow_private_mx = ["10.0.0.0/8", "mx.internal"]"#, &[]), listed);
    assert_eq!(allowed("", &[(variable, "10.0.0.0/8, mx.internal")]), listed);
    let problems = problems("", &[(variable, "10.0.0.0/33")]);
    assert!(problems.iter().any(|line| line.contains("must be an IP address, a network")), "{problems:?}");
}

#[test]
fn retention_periods_are_durations_or_forever() {
    let config = valid_config("[retention]\nmessages = \"forever\"\ncontent = \"400d\"\n", &[]);
    assert_eq!(config.retention.messages, crate::domain::records::retention::Period::FOREVER);
    let short = problems("[retention]\nmessages = \"60d\"\n", &[]);
    assert_eq!(short.len(), 1, "{short:?}");
    assert!(short[0].starts_with("retention.events: must not be longer than retention.messages"), "{short:?}");
    let toml = "[retention]\nevents = \"1d\"\naudit = \"never\"\nmessages = \"30d\"\n";
    insta::assert_snapshot!(problems(toml, &[("POSTRIDER_RETENTION__WEBHOOK_LOG", "1h")]).join("\n"), @r#"
    retention.audit: "never" is not a duration such as 45d, or "forever" (in postrider.toml)
    retention.events: must be between 7d and 3650d, is 1d ("forever" is allowed, too) (in postrider.toml)
    retention.webhook_log: must be between 1d and 3650d, is 1h ("forever" is allowed, too) (from POSTRIDER_RETENTION__WEBHOOK_LOG)
    retention.content: must not be longer than retention.messages, because content is deleted with its message: it is 45d, and retention.messages is 30d
    "#);
}
