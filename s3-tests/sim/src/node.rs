//! One node of the simulated cluster: what `holdfast serve` does, on simulated sockets, drives and time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_gateway::auth::{Authenticator, Credentials};
use holdfast_gateway::body::{Bodies, BodiesConfig};
use holdfast_gateway::events::{Courier, CourierConfig};
use holdfast_gateway::server::{Admission, Front, Gateway, GatewayConfig, converse};
use holdfast_placement::ids::DriveId;
use holdfast_placement::rpc::ClusterSecret;
use holdfast_placement::seams::{Clock, Rng, SeededRng, spawn};
use holdfast_s3_tests::request::{Keys, REGION};
use holdfast_storage_node::node::{JoinConfig, Node, NodeConfig, WorkConfig};
use holdfast_storage_node::repair::{CensusConfig, IntentsConfig, ReclaimConfig, ScrubConfig};
use holdfast_storage_node::shard_store::ShardStoreConfig;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use turmoil::net::TcpListener;

use crate::clock::{SimClock, run_fast};
use crate::media::SimMedia;
use crate::net::{Host, PORT, SimNet, Wires, name};
use crate::trace::Trace;

/// Bodies longer than this are cut into chunks.
pub const INLINE_LEN_MAX: usize = 2048;

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bytes of a chunk.
pub const CHUNK_LEN: u32 = 64 * 1024;

/// Canonical user id of the only user.
const OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// What a node is, in all its lives.
pub struct Spec {
    pub host: Host,
    pub seed: u64,
    pub data: PathBuf,
    pub drives: Vec<PathBuf>,
    pub media: Arc<SimMedia>,
    /// By how much its wall clock is wrong, and by how many thousandths all its clocks run fast.
    pub skew_ms: i64,
    pub fast_per_mille: u64,
    pub metadata_groups: u32,
    /// Whether it takes censuses and scrubs.
    pub mends: bool,
    pub wires: Wires,
    pub trace: Trace,
    /// Its lives so far, and the node of the one that it is in.
    pub life: Mutex<Life>,
    /// Whether it is wanted yet.
    pub wanted: watch::Receiver<bool>,
    /// Work to be done on its runtime.
    pub orders: Mutex<Option<mpsc::UnboundedSender<Order>>>,
}

impl Spec {
    /// What the cluster calls its drives, where that is known.
    pub fn drive_ids(&self) -> Vec<Option<DriveId>> {
        let ids = self.media.ids.lock();
        self.drives
            .iter()
            .map(|path| ids.get(path).copied())
            .collect()
    }
}

/// Work for a node; it gets a handle of it.
pub type Order = Box<dyn FnOnce(Node) -> BoxFuture<'static, ()> + Send>;

/// The life that a node is in.
#[derive(Default)]
pub struct Life {
    pub number: u64,
    pub node: Option<Node>,
    /// The start has failed: the process has ended, and somebody has to start it again.
    pub failed: bool,
}

/// Lives once.
pub async fn live(spec: Arc<Spec>) -> turmoil::Result {
    let mut wanted = spec.wanted.clone();
    wanted.wait_for(|wanted| *wanted).await?;
    let number = {
        let mut life = spec.life.lock();
        life.number += 1;
        life.number
    };
    if spec.fast_per_mille > 0 {
        spawn(run_fast(spec.fast_per_mille));
    }
    let clock: Arc<dyn Clock> = Arc::new(SimClock::start(spec.skew_ms));
    let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(
        spec.seed ^ (spec.host as u64 + 1) << 32 ^ number << 48,
    ));
    spec.trace
        .note(format_args!("{} starts, life {number}", name(spec.host)));
    let config = GatewayConfig {
        inline_len_max: INLINE_LEN_MAX,
        ..GatewayConfig::default()
    };
    let front = Front::new(config.clone(), clock.clone());
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let (_going, stopped) = watch::channel(());
    spawn(accept(spec.clone(), listener, front.clone(), stopped));

    let opening = front.clone();
    let started = Node::start(NodeConfig {
        data: spec.data.clone(),
        drives: spec.drives.clone(),
        memory_budget: 512 << 20,
        address: format!("{}:{PORT}", name(spec.host)),
        rack: spec.host as u32,
        gateway: true,
        placement_only: false,
        join: (spec.host > 0).then(|| JoinConfig {
            addresses: (0..spec.host)
                .map(|host| format!("{}:{PORT}", name(host)))
                .collect(),
            secret: secret(spec.seed),
        }),
        secret: Some(secret(spec.seed)),
        media: spec.media.clone(),
        work: work(&spec),
        net: Arc::new(SimNet {
            own: spec.host,
            wires: spec.wires.clone(),
        }),
        clock: clock.clone(),
        rng: rng.clone(),
        opening: Arc::new(move |peers| opening.open_to_peers(peers)),
    })
    .await;
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            let text = error
                .to_string()
                .replace(&spec.data.display().to_string(), "DATA");
            spec.trace
                .note(format_args!("{} does not start: {text}", name(spec.host)));
            spec.life.lock().failed = true;
            return std::future::pending().await;
        }
    };
    spec.trace
        .note(format_args!("{} is ready", name(spec.host)));
    let bodies = Bodies::new(
        node.shards(),
        node.map(),
        node.pool(),
        clock.clone(),
        rng.clone(),
        BodiesConfig {
            site: node.site(),
            chunk_len: CHUNK_LEN,
            ..BodiesConfig::default()
        },
    );
    spawn(node.rebuilder().run(bodies.repairs(), node.stopped()));
    let telling = node.clone();
    let courier = Courier::new(
        node.directory(),
        node.metadata(),
        node.led_groups(),
        Arc::new(SimNet {
            own: spec.host,
            wires: spec.wires.clone(),
        }),
        clock.clone(),
        rng.clone(),
        CourierConfig {
            pause_max: Duration::from_secs(2),
            ..CourierConfig::default()
        },
        Arc::new(move |webhooks| telling.note_webhooks(webhooks)),
    );
    spawn(courier.run(node.stopped()));
    let keys = Keys::for_tests();
    let user = Credentials::new(&keys.access, &keys.secret, OWNER, "root");
    let space = node.space();
    front.open(Arc::new(Gateway::new(
        config,
        node.directory(),
        node.metadata(),
        bodies,
        Authenticator::new(vec![user], REGION.to_owned(), clock.clone()),
        Box::new(move || space.is_full()),
        Box::new(|| b"{}".to_vec()),
        Box::new(|_| Box::pin(std::future::ready(Err("no orders here".to_owned())))),
        clock,
        rng,
    )));
    let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
    *spec.orders.lock() = Some(orders);
    spec.life.lock().node = Some(node.clone());
    while let Some(order) = ordered.recv().await {
        spawn(order(node.clone()));
    }
    Ok(())
}

async fn accept(
    spec: Arc<Spec>,
    listener: TcpListener,
    front: Arc<Front>,
    stopped: watch::Receiver<()>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        if let Ok(wire) = spec.wires.take(spec.host, stream) {
            spawn(converse(
                front.clone(),
                wire,
                Admission::All,
                stopped.clone(),
            ));
        }
    }
}

fn secret(seed: u64) -> ClusterSecret {
    ClusterSecret::random(&SeededRng::new(seed ^ 0x5EC3E7))
}

/// As in life, but that what happens in minutes there happens in seconds.
fn work(spec: &Spec) -> WorkConfig {
    WorkConfig {
        metadata_groups: spec.metadata_groups,
        shard_store: ShardStoreConfig {
            allocate_step: 1 << 20,
            compact_interval: Duration::from_secs(2),
            ..ShardStoreConfig::default()
        },
        reclaim: ReclaimConfig {
            grace: Duration::from_secs(5),
            rename_age_max: Duration::from_secs(5),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(2),
            ..ReclaimConfig::default()
        },
        intents: IntentsConfig {
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(4),
            ..IntentsConfig::default()
        },
        census: census(spec.mends),
        scrub: scrub(spec.mends),
        ..WorkConfig::default()
    }
}

/// Censuses and scrubs would make anew what bugs that are planted lose: so in some runs there are none.
fn census(mends: bool) -> CensusConfig {
    match mends {
        true => CensusConfig {
            look_pause: Duration::from_millis(400),
            interval: Duration::from_secs(40),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(5),
            bodies: 16,
            shards: 64,
            ..CensusConfig::default()
        },
        false => CensusConfig {
            look_pause: NEVER,
            ..CensusConfig::default()
        },
    }
}

fn scrub(mends: bool) -> ScrubConfig {
    match mends {
        true => ScrubConfig {
            interval: Duration::from_secs(20),
            look_pause: Duration::from_millis(500),
            step_bytes: 256 << 10,
            keep_pause: Duration::from_secs(2),
            ..ScrubConfig::default()
        },
        false => ScrubConfig {
            interval: NEVER,
            ..ScrubConfig::default()
        },
    }
}
