//! `holdfast serve`, `holdfast storage-node` and `holdfast gateway`: a node in one process, and its parts alone.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use holdfast_gateway::auth::{Authenticator, Credentials};
use holdfast_gateway::body::{Bodies, BodiesConfig};
use holdfast_gateway::events::{Courier, CourierConfig};
use holdfast_gateway::md5_lanes::Md5Lanes;
use holdfast_gateway::server::{Front, Gateway, GatewayConfig, OrderHook, StatusHook};
use holdfast_placement::directory::{Directory, DirectoryError, Identity};
use holdfast_placement::rpc::{ClusterSecret, ParseSecretError};
use holdfast_placement::seams::{Clock, Rng, SystemClock, SystemNet, SystemRng, spawn};
use holdfast_storage_node::lifecycle::{DAY_SECS, LifecycleConfig};
use holdfast_storage_node::node::{
    JoinConfig, LocalMedia, Node, NodeConfig, NodeOrder, StartError, Visitor, VisitorConfig,
    WorkConfig, read_secret,
};
use holdfast_storage_node::repair::ScrubConfig;
use tokio::net::TcpListener;

use crate::credentials::{self, CredentialsError, RootCredentials, Source};
use crate::region::Region;
use crate::units::{ByteSize, parse_duration};

/// The smallest budget that a node can do its work in.
const MEMORY_BUDGET_MIN: ByteSize = ByteSize(256 << 20);

/// Name of the file in the data directory that says where a running node listens.
pub const ENDPOINT_FILE: &str = "endpoint";

/// Canonical user id of the root user, as listings show it.
const ROOT_OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// Name of the environment's variable for the join token: a command line is visible to everybody on the machine.
const TOKEN_VARIABLE: &str = "HOLDFAST_JOIN_TOKEN";

#[derive(Args)]
#[command(
    after_help = "Environment:\n  HOLDFAST_ROOT_ACCESS_KEY, HOLDFAST_ROOT_SECRET_KEY  Key of the root user, instead of the one made at the first start\n  HOLDFAST_JOIN_TOKEN                                 The cluster's join token, instead of --token\n  HOLDFAST_LOG                                        What is logged, such as `debug` or `warn,holdfast=info`"
)]
pub struct ServeArgs {
    /// Directory for the node's identity and keys, and for data where no --drive is given.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Directory of a drive, given once for each (1 to 16). Remembered: later starts need not name them.
    #[arg(long = "drive", value_name = "DIR")]
    drives: Vec<PathBuf>,

    /// What fails together with this node (power, switch) has the same number.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = parse_rack, allow_negative_numbers = true)]
    rack: u32,

    /// Bytes a second of each drive that are read to check what lies there, at most.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_scrub_rate)]
    scrub_bytes_per_sec: ByteSize,

    /// Hours from the beginning of one check of a whole drive to that of the next, unless it takes longer.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=8784))]
    scrub_every_hours: u64,

    /// Seconds of a day of lifecycle rules, for tests; the same on all nodes.
    #[arg(long, value_name = "SECONDS", default_value_t = DAY_SECS, value_parser = clap::value_parser!(u64).range(1..))]
    lifecycle_day_secs: u64,

    /// HOST:PORT that other nodes reach this one at, if it is not the address of --listen.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_advertise)]
    advertise: Option<String>,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args)]
#[command(
    after_help = "Environment:\n  HOLDFAST_ROOT_ACCESS_KEY, HOLDFAST_ROOT_SECRET_KEY  Key of the root user, instead of the one made at the first start\n  HOLDFAST_JOIN_TOKEN                                 The cluster's join token, instead of --token\n  HOLDFAST_LOG                                        What is logged, such as `debug` or `warn,holdfast=info`"
)]
pub struct GatewayArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// What every role needs.
#[derive(Args)]
struct CommonArgs {
    /// Address for S3 clients and other nodes; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Nodes of the cluster to join, any of them; several are separated by commas. Needed at the first start only.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse_advertise)]
    join: Vec<String>,

    /// The cluster's join token, as its nodes print it at their start; better given as HOLDFAST_JOIN_TOKEN. A node that
    /// makes a cluster takes it for that one, and else makes a token.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,

    /// Domain for virtual-hosted-style requests: BUCKET.NAME/key besides NAME/BUCKET/key.
    #[arg(long, value_name = "NAME", value_parser = parse_domain)]
    domain: Option<String>,

    /// Domain for websites: browsers get the pages of a bucket from BUCKET.NAME.
    #[arg(long, value_name = "NAME", value_parser = parse_domain)]
    website_domain: Option<String>,

    /// Region that requests are signed for and that buckets answer as their location; the same on all nodes.
    #[arg(
        long,
        value_name = "NAME",
        env = "HOLDFAST_REGION",
        default_value = "us-east-1"
    )]
    region: Region,

    /// Refuse Signature Version 2, which does not cover bodies; old clients and URLs that boto3 presigns by default need it.
    #[arg(long)]
    no_signature_v2: bool,

    /// Memory that the process stays inside; at least 256MiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory_budget: ByteSize,

    /// How long what is in flight may take to finish after SIGTERM; whoever starts the process has to wait longer than that.
    #[arg(
        long,
        value_name = "TIME",
        env = "HOLDFAST_SHUTDOWN_GRACE",
        default_value = "30s",
        value_parser = parse_duration
    )]
    shutdown_grace: Duration,

    /// Only from the environment: a command line is visible to everybody on the machine.
    #[arg(skip = std::env::var("HOLDFAST_ROOT_ACCESS_KEY").ok())]
    root_access_key: Option<String>,

    #[arg(skip = std::env::var("HOLDFAST_ROOT_SECRET_KEY").ok())]
    root_secret_key: Option<String>,
}

/// Why the node did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Token(#[from] ParseSecretError),
    #[error("--join needs the cluster's token: give --token, or set {TOKEN_VARIABLE}")]
    NoToken,
    #[error("a gateway joins a cluster: give --join HOST:PORT, any node of it")]
    Alone,
    #[error("--memory-budget {0} is too small: a node needs at least {MEMORY_BUDGET_MIN}")]
    MemoryBudget(ByteSize),
    #[error("cannot listen on {0}: {1}. Choose another address with --listen ADDRESS:PORT")]
    Listen(SocketAddr, io::Error),
    #[error(
        "HOLDFAST_LOG={0:?} cannot be used ({1}): write a level such as `debug`, or levels of parts such as `warn,holdfast=info`"
    )]
    Log(String, String),
    #[error("the cluster's identities cannot be read: {0}")]
    Identities(DirectoryError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a node with a data directory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Shards, metadata, and answers to S3 requests.
    All,
    /// Shards and metadata.
    Storage,
    /// Votes in the placement group.
    Placement,
}

/// Runs a node.
pub fn run(args: ServeArgs, role: Role) -> Result<(), ServeError> {
    begin(&args.common)?.block_on(serve(args, role))
}

/// Runs a gateway that keeps nothing.
pub fn run_gateway(args: GatewayArgs) -> Result<(), ServeError> {
    begin(&args.common)?.block_on(serve_gateway(args))
}

fn begin(args: &CommonArgs) -> Result<tokio::runtime::Runtime, ServeError> {
    // What a node keeps is nobody else's: data, and keys among them.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    if args.memory_budget < MEMORY_BUDGET_MIN {
        return Err(ServeError::MemoryBudget(args.memory_budget));
    }
    let wanted = std::env::var("HOLDFAST_LOG").ok();
    let filter = match wanted.filter(|text| !text.trim().is_empty()) {
        Some(text) => tracing_subscriber::EnvFilter::try_new(&text)
            .map_err(|error| ServeError::Log(text, error.to_string()))?,
        None => tracing_subscriber::EnvFilter::new("warn,openraft=error,holdfast=info"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Whoever read our standard error may be gone. It would be told so on standard error, and panic there.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

impl CommonArgs {
    /// The token that was given.
    fn secret(&self) -> Result<Option<ClusterSecret>, ServeError> {
        let given = token(self.token.clone(), std::env::var(TOKEN_VARIABLE).ok());
        Ok(given.map(|token| token.parse()).transpose()?)
    }

    fn join(&self) -> Result<Option<JoinConfig>, ServeError> {
        if self.join.is_empty() {
            return Ok(None);
        }
        Ok(Some(JoinConfig {
            addresses: self.join.clone(),
            secret: self.secret()?.ok_or(ServeError::NoToken)?,
        }))
    }

    fn gateway_config(&self) -> GatewayConfig {
        GatewayConfig {
            domain: self.domain.clone(),
            website_domain: self.website_domain.clone(),
            region: self.region.to_string(),
            shutdown_grace: self.shutdown_grace,
            ..GatewayConfig::default()
        }
    }
}

/// The token of the flag, else that of the environment; one that is empty there, as in a file to be filled in, is none.
fn token(flag: Option<String>, variable: Option<String>) -> Option<String> {
    flag.or_else(|| variable.filter(|text| !text.trim().is_empty()))
}

/// A listener that answers before all else is ready.
struct Listening {
    front: Arc<Front>,
    address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

impl Listening {
    async fn begin(
        listen: SocketAddr,
        config: GatewayConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let unusable = |error| ServeError::Listen(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(unusable)?;
        let address = listener.local_addr()?;
        let front = Front::new(config, clock);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = spawn(holdfast_gateway::server::serve(
            front.clone(),
            listener,
            async move {
                // Ends also when nobody is left to end it.
                let _ended = stopped.await;
            },
        ));
        Ok(Self {
            front,
            address,
            stop,
            serving,
        })
    }

    /// Lets what is in flight finish.
    async fn end(self) -> io::Result<()> {
        let _gone = self.stop.send(());
        self.serving.await.map_err(io::Error::other)?
    }
}

async fn serve(args: ServeArgs, role: Role) -> Result<(), ServeError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let started = clock.monotonic();
    let mut stop = StopSignals::listen()?;
    let join = args.common.join()?;
    let joins = join.is_some();
    let config = args.common.gateway_config();
    let listening = Listening::begin(args.common.listen, config.clone(), clock.clone()).await?;
    let address = match &args.advertise {
        Some(address) => address.clone(),
        None => reachable(listening.address, &args.common.join),
    };
    let reached_at = address.clone();
    let front = listening.front.clone();
    let starting = Node::start(NodeConfig {
        data: args.data.clone(),
        drives: args.drives.clone(),
        memory_budget: args.common.memory_budget.0,
        address,
        rack: args.rack,
        gateway: role == Role::All,
        placement_only: role == Role::Placement,
        join,
        secret: args.common.secret()?,
        media: Arc::new(LocalMedia::new(args.common.memory_budget.0)),
        work: WorkConfig {
            scrub: ScrubConfig {
                bytes_per_sec: args.scrub_bytes_per_sec.0,
                interval: Duration::from_secs(args.scrub_every_hours * 3600),
                ..ScrubConfig::default()
            },
            ..WorkConfig::default()
        },
        net: Arc::new(SystemNet),
        clock: clock.clone(),
        rng: rng.clone(),
        opening: Arc::new(move |peers| front.open_to_peers(peers)),
    });
    let node = tokio::select! {
        node = starting => node?,
        () = stop.wait() => return Ok(()),
    };
    let (root, source) = root_key(&args, joins, &node.directory(), rng.as_ref()).await?;
    let bodies = Bodies::new(
        node.shards(),
        node.map(),
        node.pool(),
        clock.clone(),
        rng.clone(),
        BodiesConfig {
            site: node.site(),
            md5_lanes: Md5Lanes::start(),
            ..BodiesConfig::default()
        },
    );
    spawn(node.rebuilder().run(bodies.repairs(), node.stopped()));
    let lifecycle = LifecycleConfig {
        day_secs: args.lifecycle_day_secs,
        ..LifecycleConfig::default()
    };
    spawn(node.lifecycle(lifecycle).run(node.stopped()));
    let telling = node.clone();
    let courier = Courier::new(
        node.directory(),
        node.metadata(),
        node.led_groups(),
        Arc::new(SystemNet),
        clock.clone(),
        rng.clone(),
        CourierConfig {
            region: args.common.region.to_string(),
            ..CourierConfig::default()
        },
        Arc::new(move |webhooks| telling.note_webhooks(webhooks)),
    );
    spawn(courier.run(node.stopped()));
    let status: StatusHook = {
        let node = node.clone();
        Box::new(move || serde_json::to_vec_pretty(&node.status()).unwrap_or_default())
    };
    let order: OrderHook = {
        let node = node.clone();
        Box::new(move |order| {
            let node = node.clone();
            Box::pin(async move {
                let order: NodeOrder = serde_json::from_slice(&order)
                    .map_err(|error| format!("this is no order: {error}"))?;
                node.order(&order)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(b"{\"taken\": true}\n".to_vec())
            })
        })
    };
    let space = node.space();
    listening.front.open(Arc::new(Gateway::new(
        GatewayConfig {
            administers_only: role != Role::All,
            ..config
        },
        node.directory(),
        node.metadata(),
        bodies,
        authenticator(&root, &args.common, clock.clone()),
        Box::new(move || space.is_full()),
        status,
        order,
        clock.clone(),
        rng.clone(),
    )));

    let address = listening.address;
    std::fs::write(args.data.join(ENDPOINT_FILE), format!("http://{address}\n"))?;
    say(&match role {
        Role::All => greeting(&args.data, address, &args.common.region, &root, source),
        Role::Storage | Role::Placement => {
            greeting_without_s3(&args.data, address, &reached_at, source)
        }
    })?;
    tracing::info!(
        millis = (clock.monotonic() - started).as_millis() as u64,
        "ready"
    );
    stop.wait().await;
    tracing::info!("stopping: finishing what is in flight");
    // Others take over while this one can still answer.
    node.hand_over().await;
    let served = listening.end().await;
    let _ = std::fs::remove_file(args.data.join(ENDPOINT_FILE));
    node.shutdown().await;
    served?;
    Ok(())
}

async fn serve_gateway(args: GatewayArgs) -> Result<(), ServeError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let mut stop = StopSignals::listen()?;
    let join = args.common.join()?.ok_or(ServeError::Alone)?;
    let config = args.common.gateway_config();
    let listening = Listening::begin(args.common.listen, config.clone(), clock.clone()).await?;
    let starting = Visitor::start(VisitorConfig {
        join,
        memory_budget: args.common.memory_budget.0,
        net: Arc::new(SystemNet),
        clock: clock.clone(),
        rng: rng.clone(),
    });
    let visitor = tokio::select! {
        visitor = starting => visitor?,
        () = stop.wait() => return Ok(()),
    };
    let root = match RootCredentials::from_values(
        args.common.root_access_key.clone(),
        args.common.root_secret_key.clone(),
    )? {
        Some(root) => root,
        None => kept_by(&visitor.directory).await?,
    };
    let authenticator = authenticator(&root, &args.common, clock.clone());
    let space = visitor.space.clone();
    let bodies = Bodies::new(
        visitor.shards.clone(),
        visitor.map.clone(),
        visitor.pool.clone(),
        clock.clone(),
        rng.clone(),
        BodiesConfig {
            site: visitor.site,
            md5_lanes: Md5Lanes::start(),
            ..BodiesConfig::default()
        },
    );
    listening.front.open(Arc::new(Gateway::new(
        config,
        visitor.directory.clone(),
        visitor.metadata.clone(),
        bodies,
        authenticator,
        Box::new(move || space.is_full()),
        Box::new(|| b"{\"role\": \"gateway\"}\n".to_vec()),
        Box::new(|_| {
            let refused = "this is a gateway: give orders to a node that keeps data";
            Box::pin(std::future::ready(Err(refused.to_owned())))
        }),
        clock.clone(),
        rng.clone(),
    )));
    say(&format!(
        "Holdfast is ready.\n  S3 endpoint: http://{}\n",
        listening.address
    ))?;
    stop.wait().await;
    let served = listening.end().await;
    visitor.shutdown();
    served?;
    Ok(())
}

fn authenticator(
    root: &RootCredentials,
    args: &CommonArgs,
    clock: Arc<dyn Clock>,
) -> Authenticator {
    let root = Credentials::new(&root.access_key, &root.secret_key, ROOT_OWNER, "root").of_root();
    let authenticator = Authenticator::new(vec![root], args.region.to_string(), clock);
    match args.no_signature_v2 {
        true => authenticator,
        false => authenticator.with_sig_v2(args.domain.clone()),
    }
}

/// The root key: from the environment, else the cluster's, else one that is made and becomes the cluster's.
async fn root_key(
    args: &ServeArgs,
    joins: bool,
    directory: &Directory,
    rng: &dyn Rng,
) -> Result<(RootCredentials, Source), ServeError> {
    let given = RootCredentials::from_values(
        args.common.root_access_key.clone(),
        args.common.root_secret_key.clone(),
    )?;
    let known = match (&given, RootCredentials::read(&args.data)?) {
        (Some(given), _) => (given.clone(), Source::Environment),
        (None, Some(kept)) => (kept, Source::Kept),
        (None, None) if joins => {
            let root = kept_by(directory).await?;
            root.keep(&args.data)?;
            return Ok((root, Source::Kept));
        }
        (None, None) => RootCredentials::load(&args.data, None, None, rng)?,
    };
    // Where there is no quorum yet, the next start says it.
    let said = directory
        .put_identity(Identity {
            access_key: known.0.access_key.clone(),
            secret_key: known.0.secret_key.clone(),
            owner_id: ROOT_OWNER.to_owned(),
            display_name: "root".to_owned(),
        })
        .await;
    if let Err(error) = said {
        tracing::warn!(%error, "the root key is not known to the cluster yet");
    }
    Ok(known)
}

/// The root key that the cluster keeps.
async fn kept_by(directory: &Directory) -> Result<RootCredentials, ServeError> {
    let identities = directory
        .identities()
        .await
        .map_err(ServeError::Identities)?;
    let root = identities
        .into_iter()
        .find(|identity| identity.owner_id == ROOT_OWNER);
    match root {
        Some(root) => Ok(RootCredentials {
            access_key: root.access_key.clone(),
            secret_key: root.secret_key.clone(),
        }),
        None => Err(CredentialsError::NotKept.into()),
    }
}

/// What others reach a listener at: its address, or, if that is all of them, the one that leads to the cluster.
fn reachable(listening: SocketAddr, join: &[String]) -> String {
    use std::net::{ToSocketAddrs, UdpSocket};
    if !listening.ip().is_unspecified() {
        return listening.to_string();
    }
    let other = join
        .iter()
        .find_map(|address| address.to_socket_addrs().ok()?.next());
    let towards = other.and_then(|other| {
        let any: SocketAddr = match other {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        // Nothing is sent: the system only says which of its addresses it would use.
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(other).ok()?;
        Some(SocketAddr::new(
            socket.local_addr().ok()?.ip(),
            listening.port(),
        ))
    });
    match towards {
        Some(address) => address.to_string(),
        None => {
            let address = SocketAddr::from(([127, 0, 0, 1], listening.port()));
            tracing::info!(%address, "other nodes would be told this address: give --advertise HOST:PORT before any joins");
            address.to_string()
        }
    }
}

/// Prints in one piece: what is logged meanwhile must not come in between, and who reads one line of it finds all.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// What a person needs to begin. A secret that came from the environment is not shown.
fn greeting(
    data: &Path,
    address: SocketAddr,
    region: &Region,
    root: &RootCredentials,
    source: Source,
) -> String {
    let access = &root.access_key;
    let (secret, pasted) = match source {
        Source::Environment => (
            "(from HOLDFAST_ROOT_SECRET_KEY)",
            "\"$HOLDFAST_ROOT_SECRET_KEY\"",
        ),
        Source::Made | Source::Kept => (root.secret_key.as_str(), root.secret_key.as_str()),
    };
    let kept = match source {
        Source::Environment => String::new(),
        Source::Made | Source::Kept => format!("  (kept in {})\n", key_file(data)),
    };
    let token = token_line(data);
    format!(
        "Holdfast is ready.\n  S3 endpoint: http://{address}\n  Access key:  {access}\n  Secret key:  {secret}\n{kept}{token}Try it:\n  AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={pasted} AWS_DEFAULT_REGION={region} aws --endpoint-url http://{address} s3 mb s3://first\n"
    )
}

/// The same of a node that answers no S3 requests.
fn greeting_without_s3(
    data: &Path,
    address: SocketAddr,
    reached_at: &str,
    source: Source,
) -> String {
    let key = match source {
        Source::Environment => "(from HOLDFAST_ROOT_ACCESS_KEY)".to_owned(),
        Source::Made | Source::Kept => format!("(kept in {})", key_file(data)),
    };
    let token = token_line(data);
    let data = data.display();
    format!(
        "Holdfast is ready; this node serves no S3.\n  Listens on:  http://{address}\n  For --join:  {reached_at}\n  Root key:    {key}\n{token}How the cluster stands:\n  holdfast admin status --data {data}\n"
    )
}

fn key_file(data: &Path) -> String {
    data.join(credentials::FILE).display().to_string()
}

fn token_line(data: &Path) -> String {
    match read_secret(data) {
        Ok(Some(secret)) => format!("  Join token:  {}\n", secret.reveal()),
        _ => String::new(),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    text.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| {
            "write an address of this machine and a port, such as 127.0.0.1:9000, localhost:9000 or 0.0.0.0:9000"
                .to_owned()
        })
}

/// An address of another machine: `HOST:PORT`.
fn parse_advertise(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && !host.contains('/') && port > 0).then_some(port)
    });
    match port {
        Some(_) => Ok(text.to_owned()),
        None => Err(
            "write a host and a port, such as 10.0.0.1:9000 or node-1.example.com:9000".to_owned(),
        ),
    }
}

fn parse_rack(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("write a whole number from 0 to {}", u32::MAX))
}

fn parse_scrub_rate(text: &str) -> Result<ByteSize, String> {
    let rate: ByteSize = text.parse()?;
    match rate.0 {
        0..=65_535 => Err(
            "give at least 64KiB: a drive that is never gone over hides what is bad on it"
                .to_owned(),
        ),
        _ => Ok(rate),
    }
}

fn parse_domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("write a domain name such as s3.example.com, without scheme, port or path".to_owned())
    }
}

struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        RootCredentials, Source, greeting, greeting_without_s3, parse_domain, parse_listen, token,
    };

    #[test]
    fn an_empty_token_in_the_environment_is_none() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(token(None, None), None);
        assert_eq!(token(None, text("")), None);
        assert_eq!(token(None, text(" ")), None);
        assert_eq!(token(None, text("a")), text("a"));
        assert_eq!(token(text("b"), text("a")), text("b"));
    }

    #[test]
    fn nodes_say_what_they_serve() {
        let address = ([127, 0, 0, 1], 9000).into();
        let region = "eu-west-1".parse().unwrap();
        let root = RootCredentials {
            access_key: "HFKEY".to_owned(),
            secret_key: "hidden".to_owned(),
        };
        let data = Path::new("/none");
        let all = greeting(data, address, &region, &root, Source::Made);
        for words in [
            "S3 endpoint: http://127.0.0.1:9000\n",
            "Secret key:  hidden\n",
            "(kept in /none/root-credentials.json)\n",
            "AWS_DEFAULT_REGION=eu-west-1 aws",
        ] {
            assert!(all.contains(words), "{words}: {all}");
        }
        let given = greeting(data, address, &region, &root, Source::Environment);
        assert!(!given.contains("hidden") && !given.contains("kept in"));
        let storage = greeting_without_s3(data, address, "node-1:9000", Source::Made);
        assert!(!storage.contains("S3 endpoint") && !storage.contains("hidden"));
        for words in [
            "http://127.0.0.1:9000\n",
            "--join:  node-1:9000\n",
            "admin status --data /none\n",
        ] {
            assert!(storage.contains(words), "{words}: {storage}");
        }
    }

    #[test]
    fn addresses_are_read_or_explained() {
        assert_eq!(parse_listen("127.0.0.1:0").unwrap().port(), 0);
        for text in ["", "1.2.3", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"] {
            assert!(
                parse_listen(text).unwrap_err().contains("0.0.0.0:9000"),
                "{text}"
            );
        }
    }

    #[test]
    fn domains_are_names_and_nothing_else() {
        assert_eq!(parse_domain("S3.Example.com").unwrap(), "s3.example.com");
        for text in [
            "",
            "http://s3",
            "s3.example.com:9000",
            "a..b",
            "s3/x",
            "a_b",
        ] {
            assert!(parse_domain(text).is_err(), "{text}");
        }
    }
}
