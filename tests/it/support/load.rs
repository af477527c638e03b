//! Clients that send messages as fast as possible, and record which ones were accepted with 202.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{Api, message};
use super::smtp::SmtpServer;

/// The number of clients.
const SENDERS: usize = 8;
/// Pause between two requests of a client that continues after errors.
const PAUSE: Duration = Duration::from_millis(5);
/// Time limit of a request.
const LIMIT: Duration = Duration::from_secs(30);

/// The replicas that are running.
#[derive(Clone, Default)]
pub struct Replicas(Arc<RwLock<BTreeMap<usize, Api>>>);

impl Replicas {
    /// Adds a replica.
    pub fn set(&self, number: usize, api: Api) {
        self.0.write().unwrap().insert(number, api);
    }

    /// Removes a replica.
    pub fn remove(&self, number: usize) {
        self.0.write().unwrap().remove(&number);
    }

    fn pick(&self, number: usize) -> Option<Api> {
        let replicas = self.0.read().unwrap();
        replicas.values().nth(number % replicas.len().max(1)).cloned()
    }
}

pub struct Load {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    count: watch::Receiver<usize>,
    senders: JoinSet<()>,
    stop: CancellationToken,
}

impl Load {
    /// Starts clients that send until a request fails or gets another response than 202.
    pub fn start(api: &Api) -> Self {
        let replicas = Replicas::default();
        replicas.set(0, api.clone());
        Self::spawn(&replicas, false)
    }

    /// Starts clients that send to the running replicas until they are stopped.
    pub fn endless(replicas: &Replicas) -> Self {
        Self::spawn(replicas, true)
    }

    fn spawn(replicas: &Replicas, is_endless: bool) -> Self {
        let (acknowledged, (accepted_count, count)) = (Arc::default(), watch::channel(0));
        let (mut senders, stop) = (JoinSet::new(), CancellationToken::new());
        for number in 0..SENDERS {
            let sender = Sender {
                number,
                is_endless,
                replicas: replicas.clone(),
                acknowledged: Arc::clone(&acknowledged),
                accepted_count: accepted_count.clone(),
                stop: stop.clone(),
            };
            senders.spawn(sender.run());
        }
        Self { acknowledged, count, senders, stop }
    }

    /// Waits until this many messages were accepted with 202.
    pub async fn wait_for(&mut self, count: usize) {
        self.count.wait_for(|acknowledged| *acknowledged >= count).await.unwrap();
    }

    /// Returns the number of messages accepted with 202 so far.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Stops an endless load, waits for the end, and returns the subjects of the messages that were accepted with 202.
    pub async fn end(mut self) -> BTreeSet<String> {
        self.stop.cancel();
        while self.senders.join_next().await.is_some() {}
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

struct Sender {
    number: usize,
    is_endless: bool,
    replicas: Replicas,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    accepted_count: watch::Sender<usize>,
    stop: CancellationToken,
}

impl Sender {
    async fn run(self) {
        for n in 0.. {
            let subject = format!("{}-{n}", self.number);
            let is_accepted = match self.replicas.pick(self.number + n) {
                Some(api) => is_accepted(&api, &subject).await,
                None => false,
            };
            if is_accepted {
                self.acknowledged.lock().unwrap().insert(subject);
                self.accepted_count.send_modify(|count| *count += 1);
            } else if !self.is_endless {
                return;
            }
            if self.is_endless {
                tokio::time::sleep(PAUSE).await;
                if self.stop.is_cancelled() {
                    return;
                }
            }
        }
    }
}

async fn is_accepted(api: &Api, subject: &str) -> bool {
    let request = api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": subject})));
    request.timeout(LIMIT).send().await.is_ok_and(|response| response.status() == 202)
}

/// Returns how often each subject has arrived.
pub fn copies(smtp: &SmtpServer) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for message in smtp.messages() {
        let text = String::from_utf8(message.raw).unwrap();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
        *copies.entry(subject.to_owned()).or_default() += 1;
    }
    copies
}

/// Waits until a message with each of these subjects has arrived.
pub async fn have_all_arrived(smtp: &SmtpServer, subjects: &BTreeSet<String>) {
    loop {
        let (arrived, count) = (copies(smtp), smtp.messages().len());
        if subjects.iter().all(|subject| arrived.contains_key(subject)) {
            return;
        }
        smtp.received(count + 1).await;
    }
}
