//! Tells webhooks what waits for them. The events of a group are told by the node that leads it, one after the other for
//! each webhook, so that those of a key come in their order; what fails is tried again until it succeeds. An event is
//! forgotten after it was told: it may come twice, also after later ones, when a node dies in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::{Directory, Webhook};
use holdfast_placement::ids::GroupId;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{Clock, Net, Rng, spawn};
use holdfast_storage_node::metadata::{Metadata, MetadataError};
use holdfast_storage_node::node::WebhookReport;
use holdfast_storage_node::repair::LedGroups;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::message::message;
use super::webhook::Line;

/// How events are told.
#[derive(Clone, Debug)]
pub struct CourierConfig {
    /// What messages call the region.
    pub region: String,
    /// Between looks at the queues.
    pub interval: Duration,
    /// Between looks where there are no webhooks.
    pub idle_interval: Duration,
    /// How long the webhooks that were read are good.
    pub webhooks_for: Duration,
    /// Events that are read at a time, told one by one, and forgotten together.
    pub batch: usize,
    /// Messages that are on their way to a webhook at once.
    pub posts_max: usize,
    /// Pause after a failure; doubles up to `pause_max`. Each is shortened by up to a half, by chance.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

impl Default for CourierConfig {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            interval: Duration::from_millis(250),
            idle_interval: Duration::from_secs(5),
            webhooks_for: Duration::from_secs(2),
            batch: 64,
            posts_max: 8,
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(30),
        }
    }
}

/// Takes how the telling goes, for the node's status.
pub type TellProgress = Arc<dyn Fn(Vec<WebhookReport>) + Send + Sync>;

/// Tells webhooks what waits for them in the groups that this node leads.
pub struct Courier {
    office: Arc<Office>,
    progress: TellProgress,
}

struct Office {
    directory: Arc<Directory>,
    metadata: Metadata,
    led: LedGroups,
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    config: CourierConfig,
    /// By name, as last read.
    webhooks: Mutex<BTreeMap<String, Webhook>>,
    /// Rounds under way, and what went wrong last in each.
    rounds: Mutex<HashMap<(GroupId, String), Option<String>>>,
    /// Bounds the messages that are on their way to each webhook.
    posts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Courier {
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        directory: Arc<Directory>,
        metadata: Metadata,
        led: LedGroups,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        config: CourierConfig,
        progress: TellProgress,
    ) -> Self {
        Self {
            office: Arc::new(Office {
                directory,
                metadata,
                led,
                net,
                clock,
                rng,
                config,
                webhooks: Mutex::default(),
                rounds: Mutex::default(),
                posts: Mutex::default(),
            }),
            progress,
        }
    }

    /// Looks at the queues until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let office = &self.office;
        let mut read_at: Option<Duration> = None;
        loop {
            let now = office.clock.monotonic();
            let is_old = |at: Duration| now.saturating_sub(at) >= office.config.webhooks_for;
            if read_at.is_none_or(is_old) && office.read_webhooks().await {
                read_at = Some(now);
            }
            let waiting = office.waiting().await;
            for (group, target) in waiting.keys() {
                office.begin(*group, target, stopped.clone());
            }
            (self.progress)(office.report(&waiting));
            let is_idle = waiting.is_empty() && office.webhooks.lock().is_empty();
            let pause = match is_idle {
                true => office.config.idle_interval,
                false => office.config.interval,
            };
            tokio::select! {
                () = office.clock.sleep(pause) => {}
                _ = stopped.changed() => return,
            }
        }
    }
}

impl Office {
    /// Reads the webhooks; `false`: they are as they were.
    async fn read_webhooks(&self) -> bool {
        match self.directory.webhooks().await {
            Ok(all) => {
                let by_name = all.into_iter().map(|hook| (hook.name.clone(), hook));
                *self.webhooks.lock() = by_name.collect();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the webhooks cannot be read");
                false
            }
        }
    }

    /// Queues that are not empty, and their lengths.
    async fn waiting(&self) -> BTreeMap<(GroupId, String), u64> {
        let mut waiting = BTreeMap::new();
        for group in (self.led)() {
            if group == GroupId::PLACEMENT {
                continue;
            }
            match self.metadata.event_queues(group).await {
                Ok(queues) => {
                    let queues = queues.into_iter();
                    waiting.extend(queues.map(|(target, length)| ((group, target), length)));
                }
                Err(error) => tracing::debug!(%group, %error, "its events cannot be looked at"),
            }
        }
        waiting
    }

    fn report(&self, waiting: &BTreeMap<(GroupId, String), u64>) -> Vec<WebhookReport> {
        let rounds = self.rounds.lock();
        let mut all: BTreeMap<&str, WebhookReport> = BTreeMap::new();
        for ((group, target), length) in waiting {
            let report = all.entry(target).or_insert_with(|| WebhookReport {
                name: target.clone(),
                ..WebhookReport::default()
            });
            report.waiting += length;
            if let Some(Some(failure)) = rounds.get(&(*group, target.clone())) {
                report.failure = Some(failure.clone());
            }
        }
        all.into_values().collect()
    }

    /// Begins a round, if none is under way.
    fn begin(self: &Arc<Self>, group: GroupId, target: &str, mut stopped: watch::Receiver<bool>) {
        let place = (group, target.to_owned());
        if self.rounds.lock().contains_key(&place) {
            return;
        }
        self.rounds.lock().insert(place.clone(), None);
        let office = self.clone();
        spawn(async move {
            tokio::select! {
                done = office.round(&place) => {
                    if let Err(error) = done {
                        tracing::debug!(group = %place.0, webhook = place.1, %error, "a round ends early");
                    }
                }
                _ = stopped.changed() => {}
            }
            office.rounds.lock().remove(&place);
        });
    }

    /// Tells what waits in a queue until it is empty, or another node leads the group.
    async fn round(&self, place: &(GroupId, String)) -> Result<(), MetadataError> {
        let (group, target) = place;
        let mut line: Option<(Webhook, Line)> = None;
        let mut pause = self.config.pause_min;
        while (self.led)().contains(group) {
            let Some(webhook) = self.webhook(target).await else {
                return self.clear(*group, target).await;
            };
            let told = match &mut line {
                Some((known, line)) if *known == webhook => Ok(line),
                old => match Line::new(&webhook, self.net.clone(), self.clock.clone()) {
                    Ok(new) => Ok(&mut old.insert((webhook, new)).1),
                    Err(reason) => Err(reason),
                },
            };
            let failure = match told {
                Ok(line) => match self.tell(*group, target, line).await? {
                    Told::All => return Ok(()),
                    Told::Some => None,
                    Told::Failed(reason) => Some(reason),
                },
                Err(reason) => Some(reason),
            };
            if failure.is_none() {
                pause = self.config.pause_min;
            }
            let failed = failure.is_some();
            self.rounds.lock().insert(place.clone(), failure);
            if failed {
                self.clock.sleep(self.shortened(pause)).await;
                pause = (pause * 2).min(self.config.pause_max);
            }
        }
        Ok(())
    }

    /// The webhook of that name; `None`: there was none a moment ago.
    async fn webhook(&self, name: &str) -> Option<Webhook> {
        loop {
            if let Some(webhook) = self.webhooks.lock().get(name) {
                return Some(webhook.clone());
            }
            // What was read may be older than the webhook.
            if self.read_webhooks().await {
                return self.webhooks.lock().get(name).cloned();
            }
            self.clock.sleep(self.config.webhooks_for).await;
        }
    }

    /// Tells one batch.
    async fn tell(
        &self,
        group: GroupId,
        target: &str,
        line: &mut Line,
    ) -> Result<Told, MetadataError> {
        let batch = self.config.batch;
        let events = self.metadata.queued_events(group, target, batch).await?;
        if events.is_empty() {
            return Ok(Told::All);
        }
        let posts = {
            let mut all = self.posts.lock();
            let new = || Arc::new(Semaphore::new(self.config.posts_max));
            all.entry(target.to_owned()).or_insert_with(new).clone()
        };
        if planted(Bug::EventForgottenEarly)
            && let Some(last) = events.last()
        {
            self.metadata.forget_events(group, target, last.id).await?;
        }
        let mut through = None;
        let mut outcome = Told::Some;
        for queued in &events {
            let _post = posts.acquire().await;
            if let Err(reason) = line.post(message(queued, &self.config.region)).await {
                tracing::debug!(%group, webhook = target, reason, "a webhook was not told");
                outcome = Told::Failed(reason);
                break;
            }
            through = Some(queued.id);
        }
        if let Some(through) = through {
            self.metadata.forget_events(group, target, through).await?;
        }
        Ok(outcome)
    }

    /// Forgets what waits for a webhook that was removed, as long as there is none of its name again.
    async fn clear(&self, group: GroupId, target: &str) -> Result<(), MetadataError> {
        loop {
            let batch = self.config.batch;
            let events = self.metadata.queued_events(group, target, batch).await?;
            let Some(last) = events.last() else {
                return Ok(());
            };
            // Looked for after these were read: if it is not there now, it has not been there since they were queued, or was
            // removed after that, and they are nobody's. What is queued once it is there again has a later id than they.
            let webhooks = self.directory.webhooks().await?;
            if webhooks.iter().any(|webhook| webhook.name == target) {
                return Ok(());
            }
            tracing::warn!(%group, webhook = target, events = events.len(), "events of a webhook that was removed are dropped");
            self.metadata.forget_events(group, target, last.id).await?;
        }
    }

    /// A pause of half to all of `pause`.
    fn shortened(&self, pause: Duration) -> Duration {
        let half = (pause / 2).as_millis() as u64;
        let more = self.rng.next_u64() % (half + 1);
        Duration::from_millis(half + more)
    }
}

/// What became of a batch.
enum Told {
    /// There was nothing to tell.
    All,
    Some,
    Failed(String),
}

#[cfg(test)]
mod tests;
