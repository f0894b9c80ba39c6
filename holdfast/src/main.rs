//! The one binary of Holdfast.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin;
mod bench;
mod credentials;
mod region;
mod serve;
mod simulate;
mod units;

use serve::Role;

/// S3-compatible object gateway over a scale-out flash store.
#[derive(Parser)]
#[command(name = "holdfast", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: S3 gateway, object metadata and shards in one process.
    Serve(serve::ServeArgs),
    /// Run a node that keeps data and answers no S3 requests.
    StorageNode(serve::ServeArgs),
    /// Run a node for the placement group alone: it votes on the cluster map, buckets and identities.
    Placement(serve::ServeArgs),
    /// Run a gateway that keeps nothing: it uses the nodes of a cluster.
    Gateway(serve::GatewayArgs),
    /// Look after a running node.
    Admin(admin::AdminArgs),
    /// Put load on any S3 endpoint and measure it.
    Bench(Box<bench::BenchArgs>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Serve(args) => serve::run(args, Role::All).map_err(|error| error.to_string()),
        Command::StorageNode(args) => {
            serve::run(args, Role::Storage).map_err(|error| error.to_string())
        }
        Command::Placement(args) => {
            serve::run(args, Role::Placement).map_err(|error| error.to_string())
        }
        Command::Gateway(args) => serve::run_gateway(args).map_err(|error| error.to_string()),
        Command::Admin(args) => admin::run(args).map_err(|error| error.to_string()),
        Command::Bench(args) => run_bench(*args).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`, which panics where nobody reads.
            let _nobody_reads = writeln!(io::stderr(), "holdfast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_bench(args: bench::BenchArgs) -> Result<(), bench::BenchError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the operating system gives threads")
        .block_on(bench::run(args))
}
