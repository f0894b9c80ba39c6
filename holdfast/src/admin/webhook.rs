//! `holdfast admin webhook`: where events of buckets can be told.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::identity::{escaped, print};
use super::{AdminError, NodeArgs, client, done, target};

#[derive(Args)]
pub(super) struct WebhookArgs {
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Subcommand)]
enum WebhookCommand {
    /// Add a webhook, or change the one of that name. Buckets name it as arn:holdfast:webhook:::NAME.
    Add(AddArgs),
    /// The webhooks, without their tokens.
    List(NodeArgs),
    /// Take a webhook away; what waits to be told to it is dropped.
    Remove(RemoveArgs),
}

#[derive(Args)]
struct AddArgs {
    #[command(flatten)]
    target: NodeArgs,

    /// At most 64 letters, digits, '-', '_' and '.'.
    #[arg(value_name = "NAME")]
    name: String,

    /// http://HOST[:PORT][/PATH], as all nodes reach it.
    #[arg(value_name = "URL")]
    url: String,

    /// Sent as `Authorization: Bearer TOKEN`; with a space in it, such as in "Basic abc", as it is. The environment's
    /// HOLDFAST_WEBHOOK_TOKEN does the same, and nobody else on the machine sees it.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

#[derive(Args)]
struct RemoveArgs {
    #[command(flatten)]
    target: NodeArgs,

    #[arg(value_name = "NAME")]
    name: String,
}

const PATH: &str = "/-/webhooks";

pub(super) fn run(args: &WebhookArgs) -> Result<(), AdminError> {
    match &args.command {
        WebhookCommand::Add(args) => add(args),
        WebhookCommand::List(args) => list(args),
        WebhookCommand::Remove(args) => {
            let (endpoint, root) = target(&args.target)?;
            let path = format!("{PATH}?name={}", escaped(&args.name));
            client::request("DELETE", &endpoint, &path, b"", &root)?;
            done(&args.target, "removed")
        }
    }
}

fn add(args: &AddArgs) -> Result<(), AdminError> {
    let (endpoint, root) = target(&args.target)?;
    let given = args.token.clone();
    let token = given.or_else(|| std::env::var("HOLDFAST_WEBHOOK_TOKEN").ok());
    let webhook = json!({
        "name": args.name,
        "url": args.url,
        "token": token,
    });
    client::post(&endpoint, PATH, webhook.to_string().as_bytes(), &root)?;
    let arn = format!("arn:holdfast:webhook:::{}", args.name);
    match args.target.json {
        true => print(format_args!("{:#}\n", json!({ "arn": arn }))),
        false => print(format_args!("{arn}\n")),
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
    for webhook in &all {
        let text = |name: &str| webhook[name].as_str().unwrap_or_default();
        print(format_args!("{:<48} {}\n", text("arn"), text("url")))?;
    }
    Ok(())
}
