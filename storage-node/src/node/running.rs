//! What a node does while it runs: its background work, and the ways to its parts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::Directory;
use holdfast_placement::ids::{DriveId, Epoch, GroupId, NodeId, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{blocking, spawn};
use tokio::sync::mpsc;

use super::config::NodeConfig;
use super::identity::write_map;
use super::join::{self, change_map};
use super::open::{Inner, Node};
use super::report::{
    DriveReport, LedGroup, Mending, Redundancy, Report, StoppedReplica, WebhookReport,
};
use super::space::SpaceGauge;
use super::{steward, watch};
use crate::buffer::BufferPool;
use crate::cluster_shards::ClusterShards;
use crate::lifecycle::{LifecycleConfig, LifecycleWorker};
use crate::metadata::Metadata;
use crate::repair::{
    Census, IntentsWorker, LedGroups, MovedAway, OrphanScan, Rebuilder, ReencodeControl, Reencoder,
    Scrubber, Spoiled,
};

/// How long groups may take to find another leader when the node ends.
const HAND_OVER_TIME: Duration = Duration::from_secs(2);

/// How often it is looked whether replicas here are voters still.
const TIDY_PAUSE: Duration = Duration::from_secs(10);

/// Pause before the node says again where it is reached.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

impl Node {
    pub(super) async fn begin_work(
        &self,
        config: &NodeConfig,
        stopped: tokio::sync::watch::Receiver<bool>,
    ) {
        let inner = &self.inner;
        spawn(keep_map(
            inner.map.clone(),
            config.data.clone(),
            stopped.clone(),
        ));
        spawn(announce(inner.clone(), config.clone(), stopped.clone()));
        spawn(inner.reclaimer.clone().run(stopped.clone()));
        let orphans = OrphanScan::new(
            self.metadata(),
            inner.shards.clone(),
            self.map(),
            config.clock.clone(),
        );
        spawn(orphans.run(stopped.clone()));
        let led: LedGroups = {
            let replicas = inner.replicas.clone();
            Arc::new(move || replicas.led_here())
        };
        let intents = IntentsWorker::new(
            self.metadata(),
            self.rebuilder(),
            self.shards(),
            self.map(),
            led.clone(),
            config.clock.clone(),
            config.work.intents.clone(),
        );
        spawn(intents.run(stopped.clone()));
        let reencoder = Reencoder {
            metadata: self.metadata(),
            rebuilder: self.rebuilder(),
            shards: self.shards(),
            map: self.map(),
            pool: self.pool(),
            clock: config.clock.clone(),
            rng: config.rng.clone(),
            led: led.clone(),
            config: config.work.reencode.clone(),
            control: self.reencode(),
        };
        spawn(reencoder.run(stopped.clone()));
        self.begin_mending(led, config, &stopped);
        spawn(tidy(inner.clone(), stopped.clone()));
        watch::look(inner).await;
        watch::note_redundancy(inner).await;
        steward::renew_map_now(inner).await;
        spawn(inner.rebalancer.clone().run(stopped.clone()));
        spawn(watch::run(inner.clone(), stopped.clone()));
        spawn(watch::sum_up(inner.clone(), stopped.clone()));
        spawn(steward::run(inner.clone(), stopped));
    }

    /// Looks for shards that are bad or missing, and has them made anew.
    fn begin_mending(
        &self,
        led: LedGroups,
        config: &NodeConfig,
        stopped: &tokio::sync::watch::Receiver<bool>,
    ) {
        let inner = &self.inner;
        let scrubber = Scrubber {
            shards: inner.shards.clone(),
            clock: config.clock.clone(),
            config: config.work.scrub.clone(),
            control: inner.scrub.clone(),
        };
        spawn(scrubber.run(stopped.clone()));
        let spoiled = Spoiled {
            metadata: self.metadata(),
            rebuilder: self.rebuilder(),
            shards: inner.shards.clone(),
            map: self.map(),
            clock: config.clock.clone(),
            unowned: inner.scrub.unowned(),
        };
        spawn(spoiled.run(stopped.clone()));
        let asking = Arc::downgrade(inner);
        let census = Census {
            metadata: self.metadata(),
            rebuilder: self.rebuilder(),
            shards: self.shards(),
            map: self.map(),
            led,
            lives: Arc::new(move || {
                asking
                    .upgrade()
                    .map_or_else(Vec::new, |inner| inner.lives())
            }),
            clock: config.clock.clone(),
            config: config.work.census.clone(),
            control: inner.census.clone(),
        };
        spawn(census.run(stopped.clone()));
    }

    /// The shards of all drives of the cluster.
    pub fn shards(&self) -> Arc<ClusterShards> {
        self.inner.all_shards.clone()
    }

    pub fn map(&self) -> SharedMap {
        self.inner.map.clone()
    }

    pub fn pool(&self) -> BufferPool {
        self.inner.pool.clone()
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.inner.directory.clone()
    }

    pub fn metadata(&self) -> Metadata {
        self.inner.metadata.clone()
    }

    pub fn space(&self) -> SpaceGauge {
        self.inner.space.clone()
    }

    pub fn site(&self) -> SiteId {
        self.inner.site
    }

    /// What rebuilds shards that were found to be missing or bad; run it with the gateway's repair queue and
    /// [`stopped`](Node::stopped).
    pub fn rebuilder(&self) -> Rebuilder {
        Rebuilder::new(
            self.shards(),
            self.map(),
            self.pool(),
            self.inner.clock.clone(),
        )
    }

    /// What carries out the lifecycles of buckets; run it with [`stopped`](Node::stopped).
    pub fn lifecycle(&self, config: LifecycleConfig) -> LifecycleWorker {
        let replicas = self.inner.replicas.clone();
        LifecycleWorker::new(
            self.directory(),
            self.metadata(),
            self.map(),
            Arc::new(move || replicas.led_here()),
            self.inner.clock.clone(),
            config,
        )
    }

    /// The groups that this node leads: background work on them is its own.
    pub fn led_groups(&self) -> LedGroups {
        let replicas = self.inner.replicas.clone();
        Arc::new(move || replicas.led_here())
    }

    /// Says how the telling of events goes that this node does.
    pub fn note_webhooks(&self, webhooks: Vec<WebhookReport>) {
        *self.inner.webhooks.lock() = webhooks;
    }

    /// Starts and stops the encoding anew of bodies that are below the cluster's protection, of the groups that this
    /// node leads.
    pub fn reencode(&self) -> ReencodeControl {
        self.inner.reencode.clone()
    }

    /// Changes when background work has to end.
    pub fn stopped(&self) -> tokio::sync::watch::Receiver<bool> {
        self.inner.stop.subscribe()
    }

    /// The groups that this node leads: in which term, and on which drive.
    pub fn leads(&self) -> Vec<(GroupId, u64, DriveId)> {
        self.inner.replicas.leads()
    }

    /// Has others lead what this node leads, as far as that goes in a short time.
    pub async fn hand_over(&self) {
        self.inner.replicas.hand_over_all(HAND_OVER_TIME).await;
    }

    /// Stops the background work and the groups, and makes everything durable.
    pub async fn shutdown(&self) {
        let _ = self.inner.stop.send(true);
        self.inner.replicas.shutdown().await;
        let stores: Vec<_> = self
            .inner
            .drives
            .lock()
            .iter()
            .filter_map(|drive| drive.store.clone())
            .collect();
        for store in stores {
            store.close().await;
        }
    }
}

impl Inner {
    /// How safe what the groups hold is that are led here.
    fn redundancy(&self) -> Redundancy {
        let mut sum = Redundancy::default();
        for of_group in self.redundancy_of.lock().values() {
            sum.add(*of_group);
        }
        sum
    }

    /// What this node says of itself to those who probe it.
    pub(super) fn report(&self) -> Report {
        let drives: Vec<_> = self.drives.lock().iter().map(DriveReport::from).collect();
        let groups = self.replicas.status();
        let is_used = |id: DriveId| {
            drives
                .iter()
                .any(|drive| drive.drive == id && drive.failure.is_none())
        };
        let map = self.map.load();
        let stopped = groups.iter().flat_map(|group| {
            // What is left of one that votes no more, and cannot be started, is nobody's business.
            let votes = |drive: &DriveId| {
                group.voters.contains(drive) || map.voters(group.group).contains(drive)
            };
            let stopped = group.stopped.iter();
            let stopped = stopped.filter(move |(drive, _)| is_used(*drive) && votes(drive));
            stopped.map(|(drive, reason)| StoppedReplica {
                group: group.group,
                drive: *drive,
                reason: reason.clone(),
            })
        });
        let stopped = stopped.collect();
        let leads = groups.into_iter().filter_map(|group| {
            let leader = group.leader?;
            let here = group.applied.iter().any(|(drive, _)| *drive == leader);
            here.then_some(LedGroup {
                group: group.group,
                leader,
                term: group.term,
                voters: group.voters,
            })
        });
        Report {
            drives,
            full: self.space.is_full_here(),
            leads: leads.collect(),
            redundancy: self.redundancy(),
            mending: self.mending(),
            webhooks: self.webhooks.lock().clone(),
            clock: Some(self.clock.wall()),
            stopped,
        }
    }

    /// How the search for what is bad or missing stands here.
    fn mending(&self) -> Mending {
        let drives = self.drives.lock();
        let stores = drives.iter().filter(|drive| drive.failure.is_none());
        let stores = stores.filter_map(|drive| Some((drive.id, drive.store.as_ref()?)));
        Mending {
            started: self.started,
            drives: stores
                .map(|(id, store)| self.scrub.report(id, store))
                .collect(),
            groups: self.census.report(&self.replicas.led_here()),
            widest: self.widest.lock().clone(),
        }
    }

    /// When each node was started, by what it says.
    fn lives(&self) -> Vec<(NodeId, u64)> {
        let map = self.map.load();
        let lives = map.nodes.iter().filter_map(|node| {
            let started = match node.id == self.own {
                true => self.started,
                false => self.report_of(node.id)?.mending.started,
            };
            Some((node.id, started.0))
        });
        lives.collect()
    }

    /// What another node last said of itself; `None` before it was first probed.
    pub(super) fn report_of(&self, node: NodeId) -> Option<Report> {
        let report = self.peers.health().report(node);
        if report.is_empty() {
            return None;
        }
        Report::decode(&report)
    }
}

/// Keeps the newest map in the data directory until `stopped` changes.
async fn keep_map(map: SharedMap, data: PathBuf, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let mut kept = Epoch(0);
    loop {
        let newest = tokio::select! {
            newest = map.newer_than(kept) => newest,
            _ = stopped.changed() => return,
        };
        kept = newest.epoch;
        let data = data.clone();
        let written = blocking(move || write_map(&data, &newest)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the cluster map could not be kept");
        }
    }
}

/// Removes replicas that are voters no more and were not told, now and then.
async fn tidy(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = inner.clock.sleep(TIDY_PAUSE) => {}
            _ = stopped.changed() => return,
        }
        inner.replicas.tidy().await;
    }
}

/// Says in the map where the node is reached, as soon as there is a quorum to say it to.
async fn announce(
    inner: Arc<Inner>,
    config: NodeConfig,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let announced = change_map(&inner.directory, &inner.map, |map| {
            join::announce(map, inner.own, &config.address, config.rack, config.gateway)
        });
        tokio::select! {
            announced = announced => if announced.is_ok() {
                return;
            },
            _ = stopped.changed() => return,
        }
        inner.clock.sleep(ANNOUNCE_PAUSE).await;
    }
}

/// Says in the map that drives have moved everything away. What is not heard is told again.
pub(super) async fn tell_moved_away(
    inner: Arc<Inner>,
    mut moves: mpsc::UnboundedReceiver<MovedAway>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let moved = tokio::select! {
            moved = moves.recv() => moved,
            _ = stopped.changed() => return,
        };
        let Some(moved) = moved else { return };
        let settled = change_map(&inner.directory, &inner.map, |map| {
            let ring = map.rings.iter_mut().find(|(site, _)| *site == moved.site);
            ring.is_some_and(|(_, ring)| {
                ring.version() == moved.ring_version && ring.settle(moved.drive)
            })
        });
        match settled.await {
            Ok(true) => tracing::info!(drive = %moved.drive, "has moved everything away"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "it could not be said that a drive is done"),
        }
    }
}
