//! TCP over loopback: what merely moving the bytes costs client and server together.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::process::thread_cpu_s;
use crate::units::show_number;

const BLOCK_LEN: usize = 256 << 10;
const TIME: Duration = Duration::from_millis(300);

/// One stream, 256 KiB at a time.
#[derive(Debug, Clone, Serialize)]
pub struct LoopbackLimits {
    pub gb_per_s: f64,
    /// CPU-seconds of sender and receiver together for a GB.
    pub cpu_s_per_gb: f64,
    pub sender_cpu_s_per_gb: f64,
    pub receiver_cpu_s_per_gb: f64,
}

impl std::fmt::Display for LoopbackLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TCP {} GB/s, {} CPU-s/GB (sender {}, receiver {})",
            show_number(self.gb_per_s),
            show_number(self.cpu_s_per_gb),
            show_number(self.sender_cpu_s_per_gb),
            show_number(self.receiver_cpu_s_per_gb),
        )
    }
}

pub fn measure() -> io::Result<LoopbackLimits> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut to = TcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    // Neither end waits for ever for the other.
    to.set_write_timeout(Some(Duration::from_secs(5)))?;
    from.set_read_timeout(Some(Duration::from_secs(5)))?;
    let receiver = std::thread::Builder::new()
        .name("bench-loopback".to_owned())
        .spawn(move || -> io::Result<(u64, f64)> {
            let mut buffer = vec![0; BLOCK_LEN];
            let (mut bytes, cpu) = (0, thread_cpu_s()?);
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok((bytes, thread_cpu_s()? - cpu)),
                    n => bytes += n as u64,
                }
            }
        })?;
    let buffer = vec![7; BLOCK_LEN];
    let (began, cpu) = (Instant::now(), thread_cpu_s()?);
    while began.elapsed() < TIME {
        to.write_all(&buffer)?;
    }
    let sender_cpu_s = thread_cpu_s()? - cpu;
    drop(to);
    let (bytes, receiver_cpu_s) = receiver
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the receiver panicked")))?;
    let gb = bytes as f64 / 1e9;
    Ok(LoopbackLimits {
        gb_per_s: gb / began.elapsed().as_secs_f64(),
        cpu_s_per_gb: (sender_cpu_s + receiver_cpu_s) / gb,
        sender_cpu_s_per_gb: sender_cpu_s / gb,
        receiver_cpu_s_per_gb: receiver_cpu_s / gb,
    })
}
