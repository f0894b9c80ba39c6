//! `holdfast admin identity`: who has a key.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use holdfast_placement::seams::{Rng, SystemRng};
use serde_json::{Value, json};

use super::{AdminError, NodeArgs, client, done, target};
use crate::credentials::random_text;

#[derive(Args)]
pub(super) struct IdentityArgs {
    #[command(subcommand)]
    command: IdentityCommand,
}

#[derive(Subcommand)]
enum IdentityCommand {
    /// Make an identity and print its keys, or store the keys that are given.
    Add(AddArgs),
    /// The identities, without their secrets.
    List(NodeArgs),
    /// Take an access key away; every gateway refuses it within five seconds.
    Remove(RemoveArgs),
}

#[derive(Args)]
#[command(
    after_help = "Environment:\n  HOLDFAST_IDENTITY_SECRET_KEY  The secret of the key, instead of one that is made"
)]
struct AddArgs {
    #[command(flatten)]
    target: NodeArgs,

    /// Shown in listings.
    #[arg(long, value_name = "NAME", default_value = "")]
    display_name: String,

    /// 64 lower-case hex digits: give that of another key to make a second key of the same owner.
    #[arg(long, value_name = "ID")]
    owner_id: Option<String>,

    /// The access key, instead of one that is made.
    #[arg(long, value_name = "KEY")]
    access_key: Option<String>,

    /// Only from the environment: a command line is visible to everybody on the machine.
    #[arg(skip = std::env::var("HOLDFAST_IDENTITY_SECRET_KEY").ok())]
    secret_key: Option<String>,
}

#[derive(Args)]
struct RemoveArgs {
    #[command(flatten)]
    target: NodeArgs,

    #[arg(value_name = "ACCESS-KEY")]
    access_key: String,
}

const PATH: &str = "/-/identities";

pub(super) fn run(args: &IdentityArgs) -> Result<(), AdminError> {
    match &args.command {
        IdentityCommand::Add(args) => add(args),
        IdentityCommand::List(args) => list(args),
        IdentityCommand::Remove(args) => {
            let (endpoint, root) = target(&args.target)?;
            let path = format!("{PATH}?access-key={}", escaped(&args.access_key));
            client::request("DELETE", &endpoint, &path, b"", &root)?;
            done(&args.target, "removed")
        }
    }
}

fn add(args: &AddArgs) -> Result<(), AdminError> {
    let (endpoint, root) = target(&args.target)?;
    let rng = SystemRng;
    let access_key = args.access_key.clone().unwrap_or_else(|| {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        format!("HF{}", random_text(&rng, letters, 18))
    });
    let secret_key = args.secret_key.clone().unwrap_or_else(|| {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        random_text(&rng, letters, 40)
    });
    let owner_id = args.owner_id.clone().unwrap_or_else(|| {
        let mut id = [0; 32];
        rng.fill(&mut id);
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    });
    let identity = json!({
        "access_key": access_key,
        "secret_key": secret_key,
        "owner_id": owner_id,
        "display_name": args.display_name,
    });
    client::post(&endpoint, PATH, identity.to_string().as_bytes(), &root)?;
    match args.target.json {
        true => print(format_args!("{identity:#}\n")),
        false => print(format_args!(
            "Access key: {access_key}\nSecret key: {secret_key}\nOwner id:   {owner_id}\n"
        )),
    }
}

fn list(args: &NodeArgs) -> Result<(), AdminError> {
    let (endpoint, root) = target(args)?;
    let body = client::get(&endpoint, PATH, &root)?;
    let all: Vec<Value> = serde_json::from_slice(&body)
        .map_err(|error| AdminError::Refused(endpoint, error.to_string()))?;
    if args.json {
        return print(format_args!("{:#}\n", Value::Array(all)));
    }
    for identity in &all {
        let text = |name: &str| identity[name].as_str().unwrap_or_default();
        let (key, owner, name) = (text("access_key"), text("owner_id"), text("display_name"));
        print(format_args!("{key:<24} {owner} {name}\n"))?;
    }
    Ok(())
}

pub(super) fn print(text: std::fmt::Arguments<'_>) -> Result<(), AdminError> {
    io::stdout()
        .write_fmt(text)
        .map_err(|error| AdminError::Io("standard output".to_owned(), error))
}

/// `text` as the value of a query's parameter.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
