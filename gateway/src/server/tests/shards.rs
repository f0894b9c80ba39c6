//! Shards that go to another node and come from it, over what answers on a listener, and over a way between them on which things
//! go wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{ChunkSetId, DriveId, Epoch, NodeId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::rpc::{ClusterSecret, PeerServer, PeerServerConfig, Peers, PeersConfig};
use holdfast_placement::seams::{
    Clock, MemoryIndex, SeededRng, SystemClock, SystemNet, SystemRng, spawn,
};
use holdfast_placement::testing::map_of;
use holdfast_storage_node::buffer::{Buffer, BufferPool, PoolConfig};
use holdfast_storage_node::cluster_shards::{self, ClusterShards};
use holdfast_storage_node::shard_store::disk::MemoryDisk;
use holdfast_storage_node::shard_store::{
    GetShardError, PutShardError, ShardId, ShardStore, ShardStoreConfig,
};
use holdfast_storage_node::shards::{LocalShards, ShardFacts, Shards, read_capacity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::{Front, GatewayConfig, MIB, serve};
use crate::ops::tests::pattern;

const DRIVE: DriveId = DriveId(2);
const FACTS: ShardFacts = ShardFacts {
    epoch: Epoch(1),
    chunk_hash: [1; 32],
    chunk_len: 4 << 20,
};

/// What happens on the way, once each.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// A bit of a byte is changed.
    Flip,
    /// Everything ends.
    Cut,
}

/// Towards the node with the drive, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

/// A node that holds a drive, another that uses it, and the way between them.
struct Pair {
    shards: ClusterShards,
    /// Memory of the one that uses it.
    own: BufferPool,
    /// Memory of the one that holds it.
    theirs: BufferPool,
    /// What is to happen when so many bytes more have gone.
    mishap: Arc<Armed>,
}

#[derive(Default)]
struct Armed {
    next: parking_lot::Mutex<Option<(Direction, usize, Mishap)>>,
    happened: AtomicBool,
}

fn pool() -> BufferPool {
    BufferPool::new(PoolConfig::with_budget(64 * MIB), Arc::new(SystemClock))
}

fn peers(map: &SharedMap, secret: &ClusterSecret) -> Peers {
    Peers::new(
        NodeId(1),
        secret,
        map.clone(),
        Arc::new(SystemNet),
        Arc::new(SystemClock),
        Arc::new(SystemRng),
        PeersConfig::default(),
    )
}

impl Pair {
    async fn new() -> Self {
        let secret = ClusterSecret::random(&SeededRng::new(1));
        let drives = [(DriveId(1), NodeId(1)), (DRIVE, NodeId(2))];
        let mut map = map_of(&drives, Protection::NONE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = pool();
        let address = listener.local_addr().unwrap();
        spawn(hold(listener, map.clone(), secret.clone(), theirs.clone()));

        let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
        map.nodes[1].address = between.local_addr().unwrap().to_string();
        let mishap = Arc::<Armed>::default();
        spawn(carry(between, address, mishap.clone()));
        Self {
            shards: ClusterShards::new(Arc::default(), peers(&SharedMap::new(map), &secret)),
            own: pool(),
            theirs,
            mishap,
        }
    }

    fn buffer(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.own.try_acquire(bytes.len()).unwrap();
        buffer.extend_from_slice(bytes);
        buffer
    }

    async fn put(&self, number: u32, bytes: &[u8]) -> Result<(), PutShardError> {
        let buffer = self.buffer(bytes);
        self.shards.put(DRIVE, id(number), FACTS, buffer).await
    }

    async fn get(&self, number: u32, range: std::ops::Range<u32>) -> Result<Bytes, GetShardError> {
        let buffer = self.own.try_acquire(read_capacity(&range)).unwrap();
        self.shards.get(DRIVE, id(number), range, buffer).await
    }

    fn arm(&self, direction: Direction, after: usize, mishap: Mishap) {
        *self.mishap.next.lock() = Some((direction, after, mishap));
        self.mishap.happened.store(false, Ordering::Relaxed);
    }

    /// All memory is given back, at the other node once it has heard of the end.
    async fn all_is_given_back(&self) {
        for _ in 0..1000 {
            if self.own.in_use_bytes() + self.theirs.in_use_bytes() == 0 {
                return;
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "in use: {} and {} bytes",
            self.own.in_use_bytes(),
            self.theirs.in_use_bytes()
        );
    }
}

fn id(number: u32) -> ShardId {
    ShardId {
        set: ChunkSetId([7; 16]),
        chunk: number,
        slot: 0,
    }
}

/// The node with the drive.
async fn hold(listener: TcpListener, map: ClusterMap, secret: ClusterSecret, memory: BufferPool) {
    let clock = Arc::new(SystemClock);
    let store = ShardStore::open(
        Arc::new(MemoryDisk::new(1, 1 << 30)),
        Arc::new(MemoryIndex::new()),
        pool(),
        clock.clone(),
        Arc::new(SeededRng::new(2)),
        ShardStoreConfig {
            extent_len_max: 64 << 20,
            reserve_bytes: Some(0),
            ..ShardStoreConfig::default()
        },
    )
    .await
    .unwrap();
    let local = Arc::new(LocalShards::new());
    local.add(DRIVE, Arc::new(store));
    let mut server = PeerServer::new(PeerServerConfig {
        own: NodeId(2),
        secret,
        map: SharedMap::new(map),
        clock: clock.clone(),
        rng: Arc::new(SystemRng),
    });
    cluster_shards::offer(&mut server, &local, &memory);
    let front = Front::new(GatewayConfig::default(), clock);
    front.open_to_peers(Arc::new(server));
    serve(front, listener, std::future::pending())
        .await
        .unwrap();
}

async fn carry(listener: TcpListener, to: SocketAddr, mishap: Arc<Armed>) {
    while let Ok((near, _)) = listener.accept().await {
        let far = TcpStream::connect(to).await.unwrap();
        let (near_out, near_in) = near.into_split();
        let (far_out, far_in) = far.into_split();
        spawn(pass(near_out, far_in, Direction::There, mishap.clone()));
        spawn(pass(far_out, near_in, Direction::Back, mishap.clone()));
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    armed: Arc<Armed>,
) {
    let mut bytes = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        let happens = {
            let mut next = armed.next.lock();
            match *next {
                Some((which, after, mishap)) if which == direction && after < len => {
                    *next = None;
                    Some((after, mishap))
                }
                Some((which, after, mishap)) if which == direction => {
                    *next = Some((which, after - len, mishap));
                    None
                }
                _ => None,
            }
        };
        armed
            .happened
            .fetch_or(happens.is_some(), Ordering::Relaxed);
        match happens {
            Some((at, Mishap::Flip)) => bytes[at] ^= 1,
            Some((_, Mishap::Cut)) => return,
            None => {}
        }
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_any_length_come_back_in_any_part() {
    let pair = Pair::new().await;
    for (number, len) in [0, 1, 65_535, 65_536, 65_537, 2 * MIB, 2 * MIB + 4097]
        .into_iter()
        .enumerate()
    {
        let (number, bytes) = (number as u32, pattern(len, 0));
        pair.put(number, &bytes).await.unwrap();
        let len = len as u32;
        for range in [0..len, len / 3..len, len / 2..len / 2 + len.min(1)] {
            let back = pair.get(number, range.clone()).await.unwrap();
            let own = &bytes[range.start as usize..range.end as usize];
            assert!(back == own, "{range:?} of {len}");
        }
        let beyond = pair.get(number, 0..len + 1).await;
        assert!(matches!(beyond, Err(GetShardError::OutOfRange)));
    }
    assert!(matches!(
        pair.get(99, 0..1).await,
        Err(GetShardError::NotFound)
    ));
    pair.all_is_given_back().await;
}

/// Wherever in a shard something goes wrong on its way, memory is given back; a put is sent again and is right then, a get is an
/// error and right the next time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_on_the_way_is_never_taken_for_a_shard() {
    let pair = Pair::new().await;
    let bytes = pattern(MIB + 12_345, 0);
    let len = bytes.len() as u32;
    pair.put(0, &bytes).await.unwrap();
    // Head, beginning, middle and last byte of the payload: less than 200 bytes stand before it.
    let places = [10, 600, MIB / 2, MIB + 12_345];
    for (number, at) in (1..).zip(places) {
        for mishap in [Mishap::Flip, Mishap::Cut] {
            pair.arm(Direction::There, at, mishap);
            let put = pair.put(number, &bytes).await;
            assert!(put.is_ok(), "{mishap:?} at {at} there: {put:?}");
            assert!(pair.mishap.happened.load(Ordering::Relaxed));
            assert!(pair.get(number, 0..len).await.unwrap() == bytes);
            pair.shards.delete(DRIVE, &[id(number)]).await.unwrap();
            pair.all_is_given_back().await;

            pair.arm(Direction::Back, at, mishap);
            let get = pair.get(0, 0..len).await;
            assert!(get.is_err(), "{mishap:?} at {at} back");
            assert!(pair.mishap.happened.load(Ordering::Relaxed));
            assert!(pair.get(0, 0..len).await.unwrap() == bytes);
            pair.all_is_given_back().await;
        }
        pair.put(number, &bytes).await.unwrap();
        assert!(pair.get(number, 0..len).await.unwrap() == bytes);
        pair.shards.delete(DRIVE, &[id(number)]).await.unwrap();
    }
}
