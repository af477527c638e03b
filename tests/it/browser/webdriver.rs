//! A client of `WebDriver`: a Chromium of its own for each test, without a window.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::until::until;

/// Time limit of every wait for the browser.
const LIMIT: Duration = Duration::from_mins(1);
/// The key of the id of an element in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium with one tab.
#[derive(Debug)]
pub struct Chromium {
    http: Client,
    port: u16,
    session: String,
    /// The host on which the dashboard is, such as `http://127.0.0.1:8080`.
    pub base: String,
    driver: Child,
    profile: TempDir,
}

/// Says why a test is skipped. In CI, where everything that it needs is installed, it fails instead.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

impl Chromium {
    /// Starts Chromium for a dashboard. Without Chromium or its driver it returns `None`, with the reason on standard error.
    pub async fn start(base: &str) -> Option<Self> {
        let program = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| is_installed(name));
        let (Some(program), true) = (program, is_installed("chromedriver")) else {
            skip("this test needs chromium and chromedriver");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let (driver, profile) = (driver.spawn().unwrap(), tempfile::tempdir().unwrap());
        let http = Client::builder().timeout(LIMIT).build().unwrap();
        let mut chromium = Self { http, port, session: String::new(), base: base.to_owned(), driver, profile };
        until("chromedriver is ready", LIMIT, async || match chromium.send(Method::GET, "/status", None).await {
            Ok(_) => Ok(()),
            Err(fault) => Err(fault),
        })
        .await;
        chromium.session = chromium.new_session(program).await;
        Some(chromium)
    }

    async fn new_session(&self, program: &str) -> String {
        let profile = format!("--user-data-dir={}", self.profile.path().display());
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
        let options = json!({"binary": which(program), "args": arguments});
        let wanted = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let body = json!({"capabilities": {"alwaysMatch": wanted}});
        let session = self.send(Method::POST, "/session", Some(body)).await.unwrap();
        session["sessionId"].as_str().unwrap().to_owned()
    }

    /// Sends a command outside of the session. Returns its value, or what the driver says is wrong.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let request = self.http.request(method, format!("http://127.0.0.1:{}{path}", self.port));
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let response = request.send().await.map_err(|error| error.to_string())?;
        let is_success = response.status().is_success();
        let mut reply: Value = response.json().await.map_err(|error| error.to_string())?;
        if is_success { Ok(reply["value"].take()) } else { Err(format!("{path}: {reply}")) }
    }

    async fn command(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        self.send(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.command(Method::POST, path, Some(body)).await.unwrap()
    }

    /// Opens a path of the dashboard, and waits until the page is loaded.
    pub async fn open(&self, path: &str) {
        self.open_url(&format!("{}{path}", self.base)).await;
    }

    /// Opens a page of any site.
    pub async fn open_url(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// Opens the page to sign in, and signs in with an API key.
    pub async fn sign_in(&self, key: &str) {
        self.open("/ui/login").await;
        self.type_into("#key", key).await;
        self.press("\u{e007}").await;
        self.wait_for("the overview", "location.pathname === '/ui'").await;
    }

    /// Runs the body of a function in the page, and returns its value.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Runs the body of a function in the page that passes its value to its last argument.
    pub async fn run_later(&self, script: &str) -> Value {
        self.post("/execute/async", json!({"script": script, "args": []})).await
    }

    /// Waits until an expression of JavaScript is true in the page.
    pub async fn wait_for(&self, label: &str, condition: &str) {
        let script = json!({"script": format!("return Boolean({condition})"), "args": []});
        until(label, LIMIT, async || {
            let found = self.command(Method::POST, "/execute/sync", Some(script.clone())).await?;
            if found == json!(true) { Ok(()) } else { Err(format!("not true: {condition}")) }
        })
        .await;
    }

    /// Makes the page believe that its tab is hidden, or shown again.
    pub async fn set_hidden(&self, is_hidden: bool) {
        let state = if is_hidden { "hidden" } else { "visible" };
        self.run(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }});
             Object.defineProperty(document, 'visibilityState', {{ value: '{state}', configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'))"
        ))
        .await;
    }

    /// Types into an element.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let found = self.post("/element", json!({"using": "css selector", "value": selector})).await;
        let id = found[ELEMENT].as_str().unwrap();
        self.post(&format!("/element/{id}/value"), json!({"text": text})).await;
    }

    /// Presses keys one after the other, wherever the focus is.
    pub async fn press(&self, keys: &str) {
        let key = |key: char| {
            ["keyDown", "keyUp"].into_iter().map(move |kind| json!({"type": kind, "value": key.to_string()}))
        };
        let actions: Vec<Value> = keys.chars().flat_map(key).collect();
        self.post("/actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
    }

    /// Sets the size of the window, and the colour scheme that the user prefers.
    pub async fn look(&self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    async fn devtools(&self, name: &str, parameters: Value) {
        self.post("/goog/cdp/execute", json!({"cmd": name, "params": parameters})).await;
    }

    /// Returns the warnings and errors of the console since the last call, which include violations of the page's policy.
    pub async fn complaints(&self) -> Vec<Value> {
        let log = self.post("/se/log", json!({"type": "browser"})).await;
        let is_bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("WARNING" | "SEVERE"));
        log.as_array().unwrap().iter().filter(is_bad).cloned().collect()
    }
}

/// Closes the browser, also if the test has failed. The driver itself ends when it is dropped.
impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = quit(self.port, &self.session);
        let _ = self.driver.start_kill();
    }
}

fn quit(port: u16, session: &str) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "DELETE /session/{session} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    connection.read_to_end(&mut Vec::new()).map(drop)
}

fn is_installed(name: &str) -> bool {
    which(name).is_some()
}

/// Returns the path of a program.
fn which(name: &str) -> Option<String> {
    let paths = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| path.is_file())?;
    found.into_os_string().into_string().ok()
}
