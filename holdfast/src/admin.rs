//! `holdfast admin`: looks at a running node and its cluster.

mod client;
mod identity;
mod quota;
mod tables;
mod webhook;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use holdfast_placement::ids::{DriveId, NodeId};
use holdfast_storage_node::node::{NodeOrder, read_secret};
use serde_json::{Value, json};

use crate::credentials::{CredentialsError, RootCredentials};
use crate::serve::ENDPOINT_FILE;
use crate::simulate::{self, SimulateArgs, SimulateError};

#[derive(Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Say how the cluster stands: what is not healthy first.
    Status(NodeArgs),
    /// The nodes: who is up, who leads how many groups.
    Nodes(NodeArgs),
    /// The drives: state and room.
    Drives(NodeArgs),
    /// Where shards belong, and what is on its way.
    Ring(NodeArgs),
    /// The metadata's groups: leaders and voters.
    Groups(NodeArgs),
    /// Compute the ring of a described fleet on paper: balance, what a change moves, what may be lost.
    Simulate(SimulateArgs),
    /// Print the join token for further nodes.
    Token(TokenArgs),
    /// Move everything away from a drive or a node, which then leaves the cluster.
    Drain(DrainArgs),
    /// Give up a drive or a node that is gone for good: what it held is made anew on others.
    Lost(DrainArgs),
    /// Keep a drive or a node that was being drained.
    Keep(DrainArgs),
    /// Choose what new objects are protected with.
    Protection(ProtectionArgs),
    /// Encode anew what is protected less than new objects are, or stop doing so.
    Reencode(ReencodeArgs),
    /// Have everything checked for what is bad or missing, or say what was found.
    Scrub(ScrubArgs),
    /// Who has a key: add, list, remove.
    Identity(identity::IdentityArgs),
    /// How much may be in a bucket: set, show, clear.
    Quota(quota::QuotaArgs),
    /// Where events of buckets can be told: add, list, remove.
    Webhook(webhook::WebhookArgs),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("moved").required(true))]
struct DrainArgs {
    #[command(flatten)]
    target: NodeArgs,

    /// Number of the drive, as `holdfast admin drives` shows it.
    #[arg(long, value_name = "NUMBER", group = "moved", value_parser = parse_number)]
    drive: Option<u64>,

    /// Number of the node, as `holdfast admin nodes` shows it.
    #[arg(long, value_name = "NUMBER", group = "moved", value_parser = parse_number)]
    node: Option<u64>,
}

#[derive(Args)]
struct ReencodeArgs {
    #[command(flatten)]
    target: NodeArgs,

    #[arg(value_enum)]
    what: StartStop,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StartStop {
    Start,
    Stop,
}

#[derive(Args)]
struct ScrubArgs {
    #[command(flatten)]
    target: NodeArgs,

    #[arg(value_enum)]
    what: ScrubWhat,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ScrubWhat {
    /// Have all drives checked from their beginning, and all bodies for missing shards. Returns at once.
    Start,
    /// Say what was found. Ends with status 1 unless everything is known to be whole.
    Status,
}

#[derive(Args)]
struct ProtectionArgs {
    #[command(flatten)]
    target: NodeArgs,

    /// K+M, such as 4+2, or auto: what suits the drives best.
    #[arg(value_name = "K+M|auto")]
    protection: String,
}

#[derive(Args)]
struct NodeArgs {
    /// Data directory of a node: its root key and its address are read there.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Address of a node, if it is not the one noted in the data directory. Without --data the key is taken from
    /// HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY or from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// For machines: JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct TokenArgs {
    /// Data directory of a node.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "there is no key to ask with: give a node's --data directory, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY)"
    )]
    NoKey,
    #[error(
        "{0} is not the data directory of a node: there is no root key in it. Give the --data that `holdfast serve` was started with, or --endpoint http://HOST:PORT and the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    NotANode(String),
    #[error("which node? Give its --data directory or its --endpoint http://HOST:PORT")]
    NoNode,
    #[error("no node runs on {0}: start it with `holdfast serve --data {0}`")]
    NotRunning(String),
    #[error("{0} has no join token: it is the data directory of no node")]
    NoToken(String),
    #[error("--endpoint {0} is not an address: write it as http://HOST:PORT")]
    Endpoint(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0} does not answer: {1}. Is the node running, and is this its address?")]
    Silent(String, io::Error),
    #[error("{0} answered {1}")]
    Refused(String, String),
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    #[error("the request could not be signed: {0}")]
    Signing(String),
    #[error("not everything is known to be whole")]
    NotWhole,
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "write its number alone, such as 2".to_owned())
}

/// Writes one part of a status.
type Table = fn(&mut io::StdoutLock<'static>, &Value) -> io::Result<()>;

pub fn run(args: AdminArgs) -> Result<(), AdminError> {
    match args.command {
        AdminCommand::Status(args) => show(&args, None, |out, status| {
            tables::summary(out, status)?;
            tables::nodes(out, status)?;
            tables::drives(out, status)?;
            tables::groups(out, status)
        })
        .map(drop),
        AdminCommand::Nodes(args) => show(&args, Some("nodes"), |out, status| {
            tables::problems(out, status)?;
            tables::nodes(out, status)
        })
        .map(drop),
        AdminCommand::Drives(args) => show(&args, Some("drives"), |out, status| {
            tables::problems(out, status)?;
            tables::drives(out, status)
        })
        .map(drop),
        AdminCommand::Ring(args) => show(&args, Some("ring"), tables::ring).map(drop),
        AdminCommand::Groups(args) => show(&args, Some("groups"), |out, status| {
            tables::problems(out, status)?;
            tables::groups(out, status)
        })
        .map(drop),
        AdminCommand::Identity(args) => identity::run(&args),
        AdminCommand::Quota(args) => quota::run(&args),
        AdminCommand::Webhook(args) => webhook::run(&args),
        AdminCommand::Simulate(args) => Ok(simulate::run(&args)?),
        AdminCommand::Token(args) => token(&args.data),
        AdminCommand::Drain(args) => order(&args.target, &args.drain()),
        AdminCommand::Lost(args) => give(
            &args.target,
            &args.lose(),
            "given up",
            "`holdfast admin status` tells what is still to be made anew",
        ),
        AdminCommand::Keep(args) => order(&args.target, &args.keep()),
        AdminCommand::Scrub(args) => scrub(&args),
        AdminCommand::Reencode(args) => order(
            &args.target,
            &NodeOrder::Reencode(args.what == StartStop::Start),
        ),
        AdminCommand::Protection(args) => {
            order(&args.target, &NodeOrder::Protection(args.protection))
        }
    }
}

impl DrainArgs {
    fn drain(&self) -> NodeOrder {
        match (self.drive, self.node) {
            (Some(drive), _) => NodeOrder::DrainDrive(DriveId(drive)),
            (None, node) => NodeOrder::DrainNode(NodeId(node.unwrap_or_default())),
        }
    }

    fn lose(&self) -> NodeOrder {
        match (self.drive, self.node) {
            (Some(drive), _) => NodeOrder::LoseDrive(DriveId(drive)),
            (None, node) => NodeOrder::LoseNode(NodeId(node.unwrap_or_default())),
        }
    }

    fn keep(&self) -> NodeOrder {
        match (self.drive, self.node) {
            (Some(drive), _) => NodeOrder::KeepDrive(DriveId(drive)),
            (None, node) => NodeOrder::KeepNode(NodeId(node.unwrap_or_default())),
        }
    }
}

/// Gives an order to the node, which makes it the cluster's.
fn order(args: &NodeArgs, order: &NodeOrder) -> Result<(), AdminError> {
    give(
        args,
        order,
        "taken",
        "`holdfast admin ring` shows what is on its way",
    )
}

fn give(args: &NodeArgs, order: &NodeOrder, taken: &str, more: &str) -> Result<(), AdminError> {
    let (endpoint, root) = target(args)?;
    let body = serde_json::to_vec(order).map_err(|error| AdminError::Signing(error.to_string()))?;
    client::post(&endpoint, "/-/order", &body, &root)?;
    match args.json {
        true => done(args, taken),
        false => said(writeln!(io::stdout(), "{taken}; {more}")),
    }
}

/// Says that something was done; for machines as JSON.
fn done(args: &NodeArgs, what: &str) -> Result<(), AdminError> {
    match args.json {
        true => said(writeln!(io::stdout(), "{:#}", json!({ "done": what }))),
        false => said(writeln!(io::stdout(), "{what}")),
    }
}

/// What became of writing to standard output; a reader that went away has seen enough.
fn said(written: io::Result<()>) -> Result<(), AdminError> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(AdminError::Io("standard output".to_owned(), error))
        }
        _ => Ok(()),
    }
}

/// Has everything checked, or says what was found.
fn scrub(args: &ScrubArgs) -> Result<(), AdminError> {
    if args.what == ScrubWhat::Start {
        return give(
            &args.target,
            &NodeOrder::Scrub,
            "begun",
            "`holdfast admin scrub status` tells what is found",
        );
    }
    let status = show(&args.target, Some("mending"), tables::mending)?;
    match status["mending"]["whole"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(AdminError::NotWhole),
    }
}

/// Shows a node's status as `table`, or for machines its `part` as JSON.
fn show(args: &NodeArgs, part: Option<&str>, table: Table) -> Result<Value, AdminError> {
    let (endpoint, root) = target(args)?;
    let body = client::get(&endpoint, "/-/status", &root)?;
    let status: Value = serde_json::from_slice(&body)
        .map_err(|error| AdminError::Refused(endpoint.clone(), error.to_string()))?;
    let mut out = io::stdout().lock();
    let shown = if args.json {
        let part = part.map_or(&status, |part| &status[part]);
        writeln!(out, "{part:#}")
    } else {
        table(&mut out, &status)
    };
    said(shown)?;
    Ok(status)
}

/// The node to ask, and the key to ask with.
fn target(args: &NodeArgs) -> Result<(String, RootCredentials), AdminError> {
    let root = root_key(args.data.as_deref())?;
    let endpoint = match (&args.endpoint, &args.data) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(data)) => noted_endpoint(data)?,
        (None, None) => return Err(AdminError::NoNode),
    };
    Ok((endpoint.trim().to_owned(), root))
}

/// Where the node of a data directory says that it listens.
fn noted_endpoint(data: &Path) -> Result<String, AdminError> {
    let file = data.join(ENDPOINT_FILE);
    std::fs::read_to_string(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => AdminError::NotRunning(data.display().to_string()),
        _ => AdminError::Io(file.display().to_string(), error),
    })
}

fn root_key(data: Option<&Path>) -> Result<RootCredentials, AdminError> {
    let from = |access: &str, secret: &str| {
        Some(RootCredentials {
            access_key: std::env::var(access).ok()?,
            secret_key: std::env::var(secret).ok()?,
        })
    };
    if let Some(root) = from("HOLDFAST_ROOT_ACCESS_KEY", "HOLDFAST_ROOT_SECRET_KEY") {
        return Ok(root);
    }
    if let Some(data) = data
        && let Some(root) = RootCredentials::read(data)?
    {
        return Ok(root);
    }
    let nowhere = match data {
        Some(data) => AdminError::NotANode(data.display().to_string()),
        None => AdminError::NoKey,
    };
    from("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY").ok_or(nowhere)
}

fn token(data: &Path) -> Result<(), AdminError> {
    let named = || data.display().to_string();
    let secret = read_secret(data).map_err(|error| AdminError::Io(named(), error))?;
    let secret = secret.ok_or_else(|| AdminError::NoToken(named()))?;
    writeln!(io::stdout(), "{}", secret.reveal())
        .map_err(|error| AdminError::Io("standard output".to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::{AdminError, noted_endpoint};

    #[test]
    fn an_endpoint_that_cannot_be_read_is_not_one_that_is_not_there() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join(super::ENDPOINT_FILE);
        let gone = noted_endpoint(data.path());
        assert!(matches!(gone, Err(AdminError::NotRunning(_))), "{gone:?}");
        std::fs::create_dir(&file).unwrap();
        let unreadable = noted_endpoint(data.path());
        assert!(
            matches!(unreadable, Err(AdminError::Io(..))),
            "{unreadable:?}"
        );
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "http://127.0.0.1:1\n").unwrap();
        assert_eq!(noted_endpoint(data.path()).unwrap(), "http://127.0.0.1:1\n");
    }
}
