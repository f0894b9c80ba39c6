//! The clients besides those of the ordinary keys, as a seed has them: who renames, appends, fills a bucket with a quota,
//! keeps versions; and what is looked at when they are done.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::{PutWebhook, Webhook};
use holdfast_placement::ids::GroupId;
use holdfast_placement::seams::{SeededRng, spawn};
use holdfast_s3_tests::request::Request;
use holdfast_storage_node::metadata::Amount;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::Client;
use crate::hook;
use crate::kept::{self, Archivist};
use crate::logs::Scribe;
use crate::measured::{self, Ledger, Tenant};
use crate::run::Stage;
use crate::wander::{Rover, Wanderer};
use crate::workload;

/// Clients that rename, and clients that append.
const ROVERS: u64 = 3;
const SCRIBES: u64 = 3;

/// How long something may be refused that has to be done in the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the last events may take.
const EVENTS_MAX: Duration = Duration::from_secs(60);

/// Has a webhook told of all that comes and goes.
const RULES: &str = "<NotificationConfiguration><QueueConfiguration><Queue>arn:holdfast:webhook:::sim</Queue><Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:*</Event></QueueConfiguration></NotificationConfiguration>";

const VERSIONING: &str =
    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";

pub struct Troupe {
    stage: Arc<Stage>,
    clients: usize,
    wanderers: Vec<Wanderer>,
    quota: Amount,
    ledger: Arc<Ledger>,
    archivist: Arc<Mutex<Option<Archivist>>>,
}

/// Asks until it is done, or for long enough.
macro_rules! insist {
    ($stage:expr, $what:expr, $work:expr) => {{
        let end = $stage.shared.trace.now() + PATIENCE;
        loop {
            let error = match $work {
                Ok(done) => break Ok(done),
                Err(error) => error,
            };
            if $stage.shared.trace.now() > end {
                break Err(format!("{}: {error}", $what));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }};
}

impl Troupe {
    /// Makes what they work on.
    pub async fn gather(stage: &Arc<Stage>, client: &mut Client) -> Result<Self, String> {
        let (world, shared) = (&stage.world, &stage.shared);
        let shape = &world.shape;
        let clients = shape.nodes_max();
        let rng = SeededRng::new(stage.seed ^ 0x7A0F);
        let quota = measured::quota_of(stage.seed);
        let mut own = Self {
            stage: stage.clone(),
            clients,
            wanderers: Vec::new(),
            quota,
            ledger: Ledger::new(quota),
            archivist: Arc::default(),
        };
        for number in 0..shape.wanderers {
            let mut tried = 0;
            let wanderer = insist!(stage, "no wanderer", {
                // Who was refused may appear after all: it must not be the one that is looked for.
                tried += 1;
                Wanderer::appear(number + 100 * tried, shared, &rng, client).await
            });
            own.wanderers.push(wanderer?);
        }
        if shape.tells || shape.tenants > 0 {
            spawn(hook::listen(
                shared.clone(),
                stage.seed,
                clients,
                world.wires.clone(),
            ));
            insist!(stage, "no webhook", own.add_webhook().await)?;
        }
        if shape.tells {
            let rules = format!("/{}?notification", workload::BUCKET);
            insist!(stage, "no rules", put(client, &rules, RULES).await)?;
        }
        if shape.tenants > 0 {
            let bucket = format!("/{}", measured::BUCKET);
            insist!(stage, "no bucket", put(client, &bucket, "").await)?;
            let rules = format!("{bucket}?notification");
            insist!(stage, "no rules", put(client, &rules, RULES).await)?;
            insist!(stage, "no quota", {
                let set = world.at(0, move |node| {
                    Box::pin(async move { measured::set_quota(&node, quota).await })
                });
                set.await.unwrap_or_else(|| Err("no answer".to_owned()))
            })?;
        }
        if shape.keeps {
            let bucket = format!("/{}", kept::BUCKET);
            insist!(stage, "no bucket", put(client, &bucket, "").await)?;
            let versioning = format!("{bucket}?versioning");
            insist!(
                stage,
                "no versions",
                put(client, &versioning, VERSIONING).await
            )?;
        }
        Ok(own)
    }

    async fn add_webhook(&self) -> Result<(), String> {
        let webhook = Webhook {
            name: hook::NAME.to_owned(),
            url: hook::url(self.clients),
            token: None,
        };
        let put = self.stage.world.at(0, |node| {
            Box::pin(async move { node.directory().put_webhook(webhook).await })
        });
        match put.await {
            Some(Ok(PutWebhook::Stored)) => Ok(()),
            Some(Ok(other)) => Err(format!("{other:?}")),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no answer".to_owned()),
        }
    }

    fn client(&self) -> Client {
        Client::new(self.clients, self.stage.world.wires.clone())
    }

    fn rng(&self, number: u64) -> SeededRng {
        SeededRng::new(self.stage.seed ^ number << 24 ^ 0x7B0E)
    }

    fn rover(&self, number: u64) -> Rover {
        Rover {
            number,
            shared: self.stage.shared.clone(),
            rng: self.rng(number),
            client: self.client(),
            wanderers: self.wanderers.clone(),
            seen: vec![0; self.wanderers.len()],
        }
    }

    fn scribe(&self, number: u64) -> Scribe {
        Scribe {
            number,
            shared: self.stage.shared.clone(),
            rng: self.rng(number),
            client: self.client(),
            logs: self.stage.world.shape.logs,
            seen: Default::default(),
        }
    }

    /// Has all of them work until the time is `end`.
    pub fn work(&self, end: Duration) -> Vec<JoinHandle<()>> {
        let shape = &self.stage.world.shape;
        let shared = &self.stage.shared;
        let mut working = Vec::new();
        if !self.wanderers.is_empty() {
            for number in 300..300 + ROVERS {
                let mut rover = self.rover(number);
                working.push(spawn(async move { rover.work(end).await }));
            }
        }
        if shape.logs > 0 {
            for number in 400..400 + SCRIBES {
                let mut scribe = self.scribe(number);
                working.push(spawn(async move { scribe.work(end).await }));
            }
        }
        for number in 500..500 + shape.tenants {
            let (rng, client) = (self.rng(number), self.client());
            let mut tenant = Tenant::new(number, shared.clone(), rng, client, self.ledger.clone());
            working.push(spawn(async move { tenant.work(end).await }));
        }
        if shape.keeps {
            let (rng, client) = (self.rng(600), self.client());
            let mut archivist = Archivist::new(shared.clone(), rng, client);
            let kept = self.archivist.clone();
            working.push(spawn(async move {
                archivist.work(end).await;
                *kept.lock() = Some(archivist);
            }));
        }
        working
    }

    /// Everything is as it was left, through each of these nodes.
    pub async fn check(&self, hosts: &[usize]) -> Result<(), String> {
        let stage = &self.stage;
        let (mut rover, mut scribe) = (self.rover(700), self.scribe(701));
        let mut archivist = self.archivist.lock().take();
        for host in hosts {
            insist!(stage, "no wanderers", rover.find_all(*host).await)?;
            for log in 0..stage.world.shape.logs {
                insist!(stage, "no log", scribe.read(*host, log).await)?;
            }
            if let Some(archivist) = &mut archivist {
                insist!(stage, "no versions", archivist.check(*host).await)?;
            }
        }
        *self.archivist.lock() = archivist;
        Ok(())
    }

    /// What is counted is there, and what happened was told.
    pub async fn settle(&self, client: &mut Client) -> Result<(), String> {
        let stage = &self.stage;
        let shape = &stage.world.shape;
        let mut tells = Vec::new();
        if shape.tells {
            tells.push(workload::BUCKET);
        }
        if shape.tenants > 0 {
            tells.push(measured::BUCKET);
        }
        if tells.is_empty() {
            return Ok(());
        }
        stage.shared.hook.behave();
        let end = stage.shared.trace.now() + EVENTS_MAX;
        while let Err(error) = self.nothing_waits().await {
            if stage.shared.trace.now() > end {
                return Err(format!("not everything is told: {error}"));
            }
            sleep(Duration::from_millis(250)).await;
        }
        for wrong in stage.shared.hook.judge(&tells) {
            stage.shared.violated(wrong);
        }
        if shape.tenants > 0 {
            let counted = async || {
                let counted = stage.world.at(0, |node| {
                    Box::pin(async move { measured::counted(&node).await })
                });
                counted.await.unwrap_or_else(|| Err("no answer".to_owned()))
            };
            let (shared, quota) = (&stage.shared, self.quota);
            insist!(
                stage,
                "the quota cannot be looked at",
                measured::check(shared, client, quota, counted).await
            )?;
        }
        Ok(())
    }

    /// No event waits to be told.
    async fn nothing_waits(&self) -> Result<(), String> {
        let waiting = self.stage.world.at(0, |node| {
            Box::pin(async move {
                let groups = node.map().load().metadata_groups;
                for group in (1..=groups).map(GroupId) {
                    let queues = node.metadata().event_queues(group).await;
                    let queues = queues.map_err(|error| error.to_string())?;
                    if !queues.is_empty() {
                        return Err(format!("{group} has {queues:?}"));
                    }
                }
                Ok(())
            })
        });
        waiting.await.unwrap_or_else(|| Err("no answer".to_owned()))
    }
}

async fn put(client: &mut Client, target: &str, body: &str) -> Result<(), String> {
    let answer = client.send(0, Request::put(target).body(body)).await?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("{status} {}", answer.code())),
    }
}
