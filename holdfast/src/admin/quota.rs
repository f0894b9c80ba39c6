//! `holdfast admin quota`: how much may be in a bucket.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::identity::{escaped, print};
use super::{AdminError, NodeArgs, client, done, target};
use crate::units::ByteSize;

#[derive(Args)]
pub(super) struct QuotaArgs {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Subcommand)]
enum QuotaCommand {
    /// Set how much may be in a bucket, in place of what was set before. What is in it is counted first.
    Set(SetArgs),
    /// A bucket's quota, and what is in it.
    Show(BucketArgs),
    /// Let a bucket take whatever comes.
    Clear(BucketArgs),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("limits").required(true).multiple(true))]
struct SetArgs {
    #[command(flatten)]
    bucket: BucketArgs,

    /// Of all versions, and of the parts of uploads under way; such as 500GiB.
    #[arg(long, value_name = "SIZE", group = "limits")]
    bytes: Option<ByteSize>,

    /// Versions that are no delete markers.
    #[arg(long, value_name = "NUMBER", group = "limits")]
    objects: Option<u64>,
}

#[derive(Args)]
struct BucketArgs {
    #[command(flatten)]
    target: NodeArgs,

    #[arg(value_name = "BUCKET")]
    bucket: String,
}

const PATH: &str = "/-/quotas";

/// A bucket's first quota is set when what is in it was counted: some hundred thousand keys a second.
const COUNTING: Duration = Duration::from_secs(3600);

pub(super) fn run(args: &QuotaArgs) -> Result<(), AdminError> {
    match &args.command {
        QuotaCommand::Set(args) => {
            let (endpoint, root) = target(&args.bucket.target)?;
            let quota = json!({
                "bucket": args.bucket.bucket,
                "bytes": args.bytes.map(|bytes| bytes.0),
                "objects": args.objects,
            });
            let quota = quota.to_string();
            client::request_within(COUNTING, "POST", &endpoint, PATH, quota.as_bytes(), &root)?;
            done(&args.bucket.target, "set")
        }
        QuotaCommand::Show(args) => show(args),
        QuotaCommand::Clear(args) => {
            let (endpoint, root) = target(&args.target)?;
            client::request("DELETE", &endpoint, &path(&args.bucket), b"", &root)?;
            done(&args.target, "cleared")
        }
    }
}

fn path(bucket: &str) -> String {
    format!("{PATH}?bucket={}", escaped(bucket))
}

fn show(args: &BucketArgs) -> Result<(), AdminError> {
    let (endpoint, root) = target(&args.target)?;
    let body = client::get(&endpoint, &path(&args.bucket), &root)?;
    let shown: Value = serde_json::from_slice(&body)
        .map_err(|error| AdminError::Refused(endpoint, error.to_string()))?;
    if args.target.json {
        return print(format_args!("{shown:#}\n"));
    }
    let line = |what: &str| {
        let used = &shown[format!("used_{what}")];
        match (shown[what].as_u64(), used.as_u64()) {
            (Some(limit), Some(used)) => format!("{what:<8} {used} of {limit}\n"),
            (None, Some(used)) => format!("{what:<8} {used}\n"),
            (Some(limit), None) => format!("{what:<8} of {limit}\n"),
            (None, None) => String::new(),
        }
    };
    let lines = line("bytes") + &line("objects");
    match lines.is_empty() {
        true => print(format_args!("no quota\n")),
        false => print(format_args!("{lines}")),
    }
}
