//! What can be asked of `holdfast bench`, and the plan that a valid question becomes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::BenchError;
use super::sign::Credentials;
use crate::units::{ByteSize, parse_duration};

/// The largest body of one PUT (S3 API reference, "PutObject").
const PUT_MAX: u64 = 5 << 30;
const CONCURRENCY_MAX: usize = 4096;
/// Chunks of a signed stream, as the examples of S3's API reference have them.
const SIGNED_CHUNK: u64 = 64 << 10;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Op {
    /// Write objects, round and round over the keys.
    Put,
    /// Read objects, keys drawn at random.
    Get,
    /// Ask for the headers of objects, keys drawn at random.
    Head,
    /// Delete every key once.
    Delete,
    /// Walk all pages of the prefix.
    List,
    /// A mix of the above, as `--mix` says.
    Mixed,
    /// Write every key once, small and with many connections: fills a bucket.
    Load,
    /// Measure this machine only: drive, loopback, checksums, memory.
    Limits,
}

impl Op {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::Head => "head",
            Op::Delete => "delete",
            Op::List => "list",
            Op::Mixed => "mixed",
            Op::Load => "load",
            Op::Limits => "limits",
        }
    }
}

/// How a PUT proves its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Payload {
    /// aws-chunked with a CRC64NVME trailer, unsigned: what SDKs do with large bodies (default from 1 MiB on).
    UnsignedTrailer,
    /// As it is, with a CRC64NVME header, unsigned (default below 1 MiB).
    Unsigned,
    /// The SHA-256 of the body is signed; with a CRC64NVME header.
    Signed,
    /// aws-chunked, every 64 KiB chunk signed.
    StreamingSigned,
}

impl Payload {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Payload::UnsignedTrailer => "unsigned-trailer",
            Payload::Unsigned => "unsigned",
            Payload::Signed => "signed",
            Payload::StreamingSigned => "streaming-signed",
        }
    }
}

/// Where an S3 server listens: `http://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// As in the `Host` header.
    pub fn authority(&self) -> String {
        if self.port == 80 {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = "write it as `http://127.0.0.1:9000`";
        if text.starts_with("https://") {
            return Err(format!(
                "`{text}`: bench speaks plain HTTP only, so that TLS does not hide the server's cost; {help}"
            ));
        }
        let authority = text
            .strip_prefix("http://")
            .ok_or_else(|| format!("`{text}` is not an endpoint: {help}"))?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let wrong = || format!("`{text}` is not an endpoint (no path, no user): {help}");
        let uri: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
        let port = match &authority[uri.host().len().min(authority.len())..] {
            "" => Some(80),
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()),
        };
        if authority.contains('@') || uri.host().is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            host: uri.host().to_owned(),
            port: port.ok_or_else(wrong)?,
        })
    }
}

/// One share of `--mix`, as in `get=70`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub kind: Kind,
    pub weight: u32,
}

/// The kinds of request that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Put,
    Get,
    Head,
    Delete,
    List,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Put, Kind::Get, Kind::Head, Kind::Delete, Kind::List];

    /// As in `--mix` and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Head => "head",
            Kind::Delete => "delete",
            Kind::List => "list",
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "`{text}` is not a share: write put, get, head, delete or list, `=` and a weight"
            )
        };
        let (name, weight) = text.split_once('=').ok_or_else(help)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name.trim())
            .ok_or_else(help)?;
        let weight = weight.trim().parse().map_err(|_| help())?;
        Ok(Self { kind, weight })
    }
}

/// Loads an S3 endpoint and says what it did, how fast, and what it cost the server.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// What to do
    #[arg(value_enum, value_name = "OP")]
    pub op: Op,

    /// Where the server listens; repeat it to go round several
    #[arg(
        long = "endpoint",
        value_name = "URL",
        default_value = "http://127.0.0.1:9000"
    )]
    pub endpoints: Vec<Endpoint>,

    /// Who asks
    #[arg(long, value_name = "ID", env = "AWS_ACCESS_KEY_ID")]
    pub access_key: Option<String>,

    /// The secret of the access key
    #[arg(
        long,
        value_name = "SECRET",
        env = "AWS_SECRET_ACCESS_KEY",
        hide_env_values = true
    )]
    pub secret_key: Option<String>,

    /// The region that requests are signed for
    #[arg(
        long,
        value_name = "NAME",
        env = "AWS_REGION",
        default_value = "us-east-1"
    )]
    pub region: String,

    /// The bucket; made if it is not there and OP writes
    #[arg(long, value_name = "NAME", default_value = "holdfast-bench")]
    pub bucket: String,

    /// Process of the server, for its CPU and memory; repeat it for several [default: whoever listens on the
    /// endpoint's port on this machine]
    #[arg(long = "server-pid", value_name = "PID")]
    pub server_pids: Vec<u32>,

    /// Size of an object [default: 4KiB; for load 64B]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,

    /// Requests in flight, each on a connection of its own [default: 16; for load 64, for list 1]
    #[arg(long, short = 'c', value_name = "N")]
    pub concurrency: Option<usize>,

    /// Stop after this many requests (for list: after this many walks)
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,

    /// Stop after this time [default: 10s where --count is not given and OP has no natural end]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// How many keys there are [default: --count, else 10000, or 16 for objects of 1 MiB and more; for load 100000]
    #[arg(long, value_name = "N")]
    pub keys: Option<u64>,

    /// What all keys begin with
    #[arg(long, value_name = "PREFIX", default_value = "bench/")]
    pub prefix: String,

    /// Keys that share a folder below the prefix; 0 for no folders
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub keys_per_folder: u64,

    /// list: roll up keys at this delimiter
    #[arg(long, value_name = "TEXT")]
    pub delimiter: Option<String>,

    /// list: list versions and delete markers (ListObjectVersions) instead of objects
    #[arg(long)]
    pub versions: bool,

    /// list: begin after this key, which need not be there
    #[arg(long, value_name = "KEY")]
    pub start_after: Option<String>,

    /// list: end a walk after so many pages [default: at the last page]
    #[arg(long, value_name = "N")]
    pub pages: Option<u64>,

    /// list: keys of a page, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub page: u32,

    /// mixed: weights of the requests
    #[arg(
        long,
        value_name = "KIND=WEIGHT,...",
        value_delimiter = ',',
        default_value = "get=70,put=20,head=5,delete=5"
    )]
    pub mix: Vec<Share>,

    /// How PUT proves its bytes [default: by size]
    #[arg(long, value_enum)]
    pub payload: Option<Payload>,

    /// Size of an aws-chunked chunk of unsigned-trailer
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub chunk: ByteSize,

    /// Compare every byte that is read; put, load: read everything back afterwards; list: check
    /// the order and, with --keys, that each key is listed once (what a mix writes beside them may be there too)
    #[arg(long)]
    pub verify: bool,

    /// Write all keys first, unmeasured, so that get, head, delete, list and mixed find them
    #[arg(long)]
    pub prepare: bool,

    /// What objects hold and which keys are drawn follow from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Give up on a request after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub timeout: Duration,

    /// Stop after this many failed requests
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_errors: u64,

    /// Threads of this client [default: as many as the machine has cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// After writes, watch this long what the server goes on doing; also the pause after --prepare
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub settle: Duration,

    /// Where the drive's limits are measured; best on the server's drive
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub limits_dir: PathBuf,

    /// Leave out the machine's limits, which take some two seconds before the run
    #[arg(long)]
    pub no_limits: bool,

    /// Write all results as JSON here; `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A valid question with every default decided.
#[derive(Debug, Clone)]
pub struct Plan {
    pub op: Op,
    pub endpoints: Vec<Endpoint>,
    pub credentials: Credentials,
    pub region: String,
    pub bucket: String,
    pub size: u64,
    pub concurrency: usize,
    pub threads: usize,
    pub count: Option<u64>,
    pub duration: Option<Duration>,
    pub keys: u64,
    /// `keys` was asked for, not assumed.
    pub keys_given: bool,
    pub prefix: String,
    pub keys_per_folder: u64,
    pub delimiter: Option<String>,
    pub versions: bool,
    pub start_after: Option<String>,
    pub pages: Option<u64>,
    pub page: u32,
    pub mix: Vec<Share>,
    pub payload: Payload,
    pub chunk: u64,
    pub verify: bool,
    pub prepare: bool,
    pub seed: u64,
    pub timeout: Duration,
    pub max_errors: u64,
}

impl Plan {
    /// Checks `args` and decides what they leave open.
    pub fn new(args: &BenchArgs) -> Result<Self, BenchError> {
        let wrong = |text: &str| Err(BenchError::Usage(text.to_owned()));
        let (Some(access_key), Some(secret_key)) = (&args.access_key, &args.secret_key) else {
            return wrong(
                "no credentials: give --access-key and --secret-key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            );
        };
        let op = args.op;
        let size = args
            .size
            .map_or(if op == Op::Load { 64 } else { 4096 }, |size| size.0);
        if size > PUT_MAX {
            return wrong("--size is more than the 5GiB that one PUT may carry");
        }
        let concurrency = args.concurrency.unwrap_or(match op {
            Op::Load => 64,
            Op::List => 1,
            _ => 16,
        });
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return wrong("--concurrency must be 1 to 4096");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.unwrap_or(cores);
        if threads == 0 || threads > 256 {
            return wrong("--threads must be 1 to 256");
        }
        if args.count == Some(0) || args.keys == Some(0) {
            return wrong("--count and --keys must be at least 1; leave them out for the default");
        }
        if args.duration.is_some_and(|duration| duration.is_zero()) || args.timeout.is_zero() {
            return wrong("--duration and --timeout must be more than zero, as in `10s`");
        }
        if op == Op::Load && args.duration.is_none() && args.count.is_some() && args.keys.is_some()
        {
            return wrong("load writes every key once: give --keys or --count, not both");
        }
        let lists = args.delimiter.is_some()
            || args.start_after.is_some()
            || args.pages.is_some()
            || args.versions;
        if op != Op::List && lists {
            return wrong("--delimiter, --versions, --start-after and --pages are for list only");
        }
        if args.pages == Some(0) {
            return wrong("--pages must be at least 1; leave it out to walk to the last page");
        }
        if args.delimiter.as_deref() == Some("") {
            return wrong("--delimiter must not be empty; leave it out to list every key");
        }
        if !(1..=1000).contains(&args.page) {
            return wrong("--page must be 1 to 1000, S3's limit");
        }
        if args.chunk.0 < 8192 {
            return wrong("--chunk must be at least 8KiB, S3's limit for all but the last chunk");
        }
        if args.prefix.len() > 900 {
            return wrong(
                "--prefix leaves no room for keys: S3 allows 1024 bytes, keep it within 900",
            );
        }
        if args.bucket.is_empty() || args.bucket.contains('/') {
            return wrong("--bucket is not a bucket's name");
        }
        let mut mix = BTreeMap::new();
        for share in &args.mix {
            if mix.insert(share.kind, share.weight).is_some() {
                return wrong("--mix names a kind of request twice");
            }
        }
        if mix.values().map(|&weight| u64::from(weight)).sum::<u64>() == 0 {
            return wrong(
                "--mix has no weight: give at least one kind more than 0, as in `get=70,put=30`",
            );
        }
        let payload = args.payload.unwrap_or(if size >= 1 << 20 {
            Payload::UnsignedTrailer
        } else {
            Payload::Unsigned
        });
        let keys_assumed = match op {
            Op::Load => 100_000,
            _ if size >= 1 << 20 => 16,
            _ => 10_000,
        };
        // A walk is what list counts, so its --count says nothing about keys.
        let count_of_keys = args.count.filter(|_| op != Op::List);
        let keys = args.keys.or(count_of_keys).unwrap_or(keys_assumed);
        let endless = matches!(op, Op::Put | Op::Get | Op::Head | Op::Mixed);
        let open_end = endless && args.count.is_none() && args.duration.is_none();
        Ok(Self {
            op,
            endpoints: args.endpoints.clone(),
            credentials: Credentials {
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
            },
            region: args.region.clone(),
            bucket: args.bucket.clone(),
            size,
            concurrency,
            threads: threads.min(concurrency),
            count: match op {
                Op::Load | Op::Delete => Some(args.count.unwrap_or(keys).min(keys)),
                Op::List if args.duration.is_none() => Some(args.count.unwrap_or(1)),
                _ => args.count,
            },
            duration: if open_end {
                Some(Duration::from_secs(10))
            } else {
                args.duration
            },
            keys,
            keys_given: args.keys.is_some(),
            prefix: args.prefix.clone(),
            keys_per_folder: args.keys_per_folder,
            delimiter: args.delimiter.clone(),
            versions: args.versions,
            start_after: args.start_after.clone(),
            pages: args.pages,
            page: args.page,
            mix: mix
                .into_iter()
                .map(|(kind, weight)| Share { kind, weight })
                .collect(),
            payload,
            chunk: if payload == Payload::StreamingSigned {
                SIGNED_CHUNK
            } else {
                args.chunk.0
            },
            verify: args.verify,
            prepare: args.prepare,
            seed: args.seed,
            timeout: args.timeout,
            max_errors: args.max_errors.max(1),
        })
    }

    /// The name of key number `index`.
    pub fn key(&self, index: u64) -> String {
        match index.checked_div(self.keys_per_folder) {
            Some(folder) => format!("{}{folder:06}/{index:010}", self.prefix),
            None => format!("{}{index:010}", self.prefix),
        }
    }

    /// What the keys begin with that the workers of a mix write and delete beside those with numbers.
    pub fn own_prefix(&self) -> String {
        format!("{}own/", self.prefix)
    }

    /// Whether a whole walk lists every key with a number.
    pub fn walks_all(&self) -> bool {
        self.keys_given
            && self.delimiter.is_none()
            && self.start_after.is_none()
            && self.pages.is_none()
    }
}

#[cfg(test)]
#[path = "args/tests.rs"]
mod tests;
