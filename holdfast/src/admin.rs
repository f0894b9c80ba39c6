//! `holdfast admin`: looks at a running node.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use clap::{Args, Subcommand};
use holdfast_placement::seams::{Clock, SystemClock};

use crate::credentials::{CredentialsError, RootCredentials};
use crate::serve::ENDPOINT_FILE;

#[derive(Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Say how the node stands: what is not healthy first.
    Status(StatusArgs),
}

#[derive(Args)]
struct StatusArgs {
    /// Data directory of the node: its root key and its address are read there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Address of the node, if it is not the one noted in the data directory.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// For machines: the whole status as JSON.
    #[arg(long)]
    json: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "{0} has no root key: give the node's --data directory, or set HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY"
    )]
    NoKey(String),
    #[error("no node runs on {0}: start it with `holdfast serve --data {0}`")]
    NotRunning(String),
    #[error("--endpoint {0} is not an address: write it as http://HOST:PORT")]
    Endpoint(String),
    #[error("{0} does not answer: {1}")]
    Io(String, io::Error),
    #[error("{0} answered {1}")]
    Refused(String, String),
    #[error("the request could not be signed: {0}")]
    Signing(String),
}

pub fn run(args: AdminArgs) -> Result<(), AdminError> {
    match args.command {
        AdminCommand::Status(args) => status(&args),
    }
}

fn status(args: &StatusArgs) -> Result<(), AdminError> {
    let root = root_key(&args.data)?;
    let endpoint = match &args.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => std::fs::read_to_string(args.data.join(ENDPOINT_FILE))
            .map_err(|_| AdminError::NotRunning(args.data.display().to_string()))?,
    };
    let body = get(endpoint.trim(), "/-/status", &root)?;
    let mut out = io::stdout().lock();
    let shown = if args.json {
        out.write_all(&body)
    } else {
        match serde_json::from_slice(&body) {
            Ok(status) => write_table(&mut out, &status),
            Err(error) => Err(error.into()),
        }
    };
    shown.map_err(|error| AdminError::Io("standard output".to_owned(), error))
}

fn root_key(data: &Path) -> Result<RootCredentials, AdminError> {
    let access_key = std::env::var("HOLDFAST_ROOT_ACCESS_KEY");
    let secret_key = std::env::var("HOLDFAST_ROOT_SECRET_KEY");
    if let (Ok(access_key), Ok(secret_key)) = (access_key, secret_key) {
        return Ok(RootCredentials {
            access_key,
            secret_key,
        });
    }
    RootCredentials::read(data)?.ok_or_else(|| AdminError::NoKey(data.display().to_string()))
}

fn write_table(out: &mut impl Write, status: &serde_json::Value) -> io::Result<()> {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    for problem in list(&status["problems"]) {
        writeln!(out, "! {}", text(&problem))?;
    }
    writeln!(
        out,
        "healthy {}   lost drives absorbed {}   protection {}   epoch {}   full {}",
        status["healthy"],
        status["absorbed"],
        text(&status["protection"]),
        status["epoch"],
        status["full"],
    )?;
    writeln!(
        out,
        "{:<8} {:<6} {:>10} {:>10} {:<7} PATH",
        "DRIVE", "STATE", "TOTAL", "FREE", "DISK"
    )?;
    for drive in list(&status["drives"]) {
        let size = |name: &str| {
            let bytes = drive[name].as_u64().unwrap_or(0);
            format!("{:.1}GiB", bytes as f64 / (1u64 << 30) as f64)
        };
        writeln!(
            out,
            "{:<8} {:<6} {:>10} {:>10} {:<7} {}",
            text(&drive["drive"]),
            text(&drive["state"]),
            size("total_bytes"),
            size("free_bytes"),
            text(&drive["disk"]),
            text(&drive["path"]),
        )?;
    }
    writeln!(
        out,
        "{:<8} {:<7} {:<5} VOTERS (UP)",
        "GROUP", "LEADER", "TERM"
    )?;
    for group in list(&status["groups"]) {
        writeln!(
            out,
            "{:<8} {:<7} {:<5} {} ({})",
            text(&group["group"]),
            text(&group["leader"]),
            text(&group["term"]),
            list(&group["voters"])
                .iter()
                .map(text)
                .collect::<Vec<_>>()
                .join(","),
            text(&group["voters_up"]),
        )?;
    }
    Ok(())
}

/// One signed GET over a connection of its own.
fn get(endpoint: &str, path: &str, root: &RootCredentials) -> Result<Vec<u8>, AdminError> {
    let host = endpoint
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|host| !host.is_empty() && !host.contains('/'))
        .ok_or_else(|| AdminError::Endpoint(endpoint.to_owned()))?;
    let request = signed(host, path, root)?;
    let failed = |error| AdminError::Io(endpoint.to_owned(), error);
    let answer = exchange(host, &request).map_err(failed)?;
    let split = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| AdminError::Refused(endpoint.to_owned(), "nothing sensible".to_owned()))?;
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let body = answer[split + 4..].to_vec();
    let status = head.split(' ').nth(1).unwrap_or("");
    if status != "200" {
        let reason = format!("{status}: {}", String::from_utf8_lossy(&body));
        return Err(AdminError::Refused(endpoint.to_owned(), reason));
    }
    Ok(body)
}

fn exchange(host: &str, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn signed(host: &str, path: &str, root: &RootCredentials) -> Result<String, AdminError> {
    let failed = |error: &dyn std::fmt::Display| AdminError::Signing(error.to_string());
    let identity = aws_credential_types::Credentials::new(
        &root.access_key,
        &root.secret_key,
        None,
        None,
        "holdfast",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let now = std::time::UNIX_EPOCH + Duration::from_millis(SystemClock.wall().0);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?
        .into();
    let url = format!("http://{host}{path}");
    let headers = [("host", host)];
    let signable = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(b""))
        .map_err(|error| failed(&error))?;
    let (instructions, _) = sign(signable, &params)
        .map_err(|error| failed(&error))?
        .into_parts();
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in instructions.headers() {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    Ok(request)
}
