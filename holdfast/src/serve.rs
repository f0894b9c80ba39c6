//! `holdfast serve`: a node in one process.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use holdfast_gateway::auth::{Authenticator, Credentials};
use holdfast_gateway::body::{Bodies, BodiesConfig};
use holdfast_gateway::server::{Gateway, GatewayConfig, StatusHook};
use holdfast_placement::seams::{Clock, Rng, SystemClock, SystemRng, spawn};
use holdfast_storage_node::node::{Node, NodeConfig, StartError};
use tokio::net::TcpListener;

use crate::credentials::{self, CredentialsError, RootCredentials, Source};
use crate::units::ByteSize;

/// The smallest budget that a node can do its work in.
const MEMORY_BUDGET_MIN: ByteSize = ByteSize(256 << 20);

/// Name of the file in the data directory that says where a running node listens.
pub const ENDPOINT_FILE: &str = "endpoint";

const REGION: &str = "us-east-1";

/// Canonical user id of the root user, as listings show it.
const ROOT_OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

#[derive(Args)]
#[command(
    after_help = "Environment:\n  HOLDFAST_ROOT_ACCESS_KEY, HOLDFAST_ROOT_SECRET_KEY  Key of the root user, instead of the one made at the first start\n  HOLDFAST_LOG                                        What is logged, such as `debug` or `warn,holdfast=info`"
)]
pub struct ServeArgs {
    /// Directory of the node: its identity, its root key and, unless --drive is given, its only drive.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Directory of a drive, given once for each (1 to 16). Remembered: later starts need not name them.
    #[arg(long = "drive", value_name = "DIR")]
    drives: Vec<PathBuf>,

    /// Address for S3 clients; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Domain for virtual-hosted-style requests: BUCKET.NAME/key besides NAME/BUCKET/key.
    #[arg(long, value_name = "NAME", value_parser = parse_domain)]
    domain: Option<String>,

    /// Memory that the process stays inside; at least 256MiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory_budget: ByteSize,

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
    #[error("--memory-budget {0} is too small: a node needs at least {MEMORY_BUDGET_MIN}")]
    MemoryBudget(ByteSize),
    #[error("cannot listen on {0}: {1}. Choose another address with --listen ADDRESS:PORT")]
    Listen(SocketAddr, io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

pub fn run(args: ServeArgs) -> Result<(), ServeError> {
    if args.memory_budget < MEMORY_BUDGET_MIN {
        return Err(ServeError::MemoryBudget(args.memory_budget));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,openraft=error,holdfast=info")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(args))
}

async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let started = clock.monotonic();
    let mut stop = StopSignals::listen()?;

    let node = Node::start(NodeConfig {
        data: args.data.clone(),
        drives: args.drives.clone(),
        memory_budget: args.memory_budget.0,
        clock: clock.clone(),
        rng: rng.clone(),
    })
    .await?;
    let (root, source) = RootCredentials::load(
        &args.data,
        args.root_access_key,
        args.root_secret_key,
        rng.as_ref(),
    )?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| ServeError::Listen(args.listen, error))?;
    let address = listener.local_addr()?;

    let bodies = Bodies::new(
        node.shards(),
        node.map(),
        node.pool(),
        clock.clone(),
        rng.clone(),
        BodiesConfig {
            site: node.site(),
            ..BodiesConfig::default()
        },
    );
    spawn(node.rebuilder().run(bodies.repairs(), node.stopped()));
    let authenticator = Authenticator::new(
        vec![Credentials::new(
            &root.access_key,
            &root.secret_key,
            ROOT_OWNER,
            "root",
        )],
        REGION.to_owned(),
        clock.clone(),
    );
    let status: StatusHook = {
        let node = node.clone();
        Box::new(move || serde_json::to_vec_pretty(&node.status()).unwrap_or_default())
    };
    let space = node.space();
    let gateway = Gateway::new(
        GatewayConfig {
            domain: args.domain,
            region: REGION.to_owned(),
            ..GatewayConfig::default()
        },
        node.directory(),
        node.metadata(),
        bodies,
        authenticator,
        Box::new(move || space.is_full()),
        status,
        clock.clone(),
        rng.clone(),
    );

    std::fs::write(args.data.join(ENDPOINT_FILE), format!("http://{address}\n"))?;
    greet(&args.data, address, &root, source)?;
    tracing::info!(
        millis = (clock.monotonic() - started).as_millis() as u64,
        "ready"
    );
    let served = holdfast_gateway::server::serve(Arc::new(gateway), listener, async move {
        stop.wait().await;
        tracing::info!("stopping: finishing what is in flight");
    })
    .await;
    let _ = std::fs::remove_file(args.data.join(ENDPOINT_FILE));
    node.shutdown().await;
    served?;
    Ok(())
}

/// What a person needs to begin. A secret that came from the environment is not shown.
fn greet(
    data: &std::path::Path,
    address: SocketAddr,
    root: &RootCredentials,
    source: Source,
) -> io::Result<()> {
    let file = data.join(credentials::FILE);
    let secret = match source {
        Source::Environment => "(from HOLDFAST_ROOT_SECRET_KEY)".to_owned(),
        Source::Made | Source::Kept => root.secret_key.clone(),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "Holdfast is ready.")?;
    writeln!(out, "  S3 endpoint: http://{address}")?;
    writeln!(out, "  Access key:  {}", root.access_key)?;
    writeln!(out, "  Secret key:  {secret}")?;
    if source != Source::Environment {
        writeln!(out, "  (kept in {})", file.display())?;
    }
    writeln!(out, "Try it:")?;
    let shown = match source {
        Source::Environment => "\"$HOLDFAST_ROOT_SECRET_KEY\"",
        Source::Made | Source::Kept => &secret,
    };
    writeln!(
        out,
        "  AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={shown} AWS_DEFAULT_REGION={REGION} aws --endpoint-url http://{address} s3 mb s3://first",
        root.access_key,
    )?;
    out.flush()
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
    use super::{parse_domain, parse_listen};

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
