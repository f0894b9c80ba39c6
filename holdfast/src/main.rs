//! `holdfast`: the one binary.

mod bench;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "holdfast", version, about)]
enum Cli {
    /// Load an S3 endpoint, check what comes back and say what it cost.
    Bench(bench::BenchArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli::Bench(args) = Cli::parse();
    match bench::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast bench: {error}");
            ExitCode::FAILURE
        }
    }
}
