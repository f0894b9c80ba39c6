//! What this machine can do at most: the yardstick beside every figure.
//!
//! Short on purpose (some two seconds), so that it runs before every load and a figure from a noisy hour
//! stands beside limits of the same hour.

mod compute;
mod drive;
mod loopback;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// The machine's limits. Rates are GB/s with GB = 10^9 bytes, of one core unless said otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    pub drive: Measured<drive::DriveLimits>,
    pub loopback: Measured<loopback::LoopbackLimits>,
    pub compute: compute::ComputeLimits,
}

/// A measurement, or why there is none.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured<T> {
    Ok(T),
    Failed(String),
}

/// Measures. `all` adds what is of interest only when the machine itself is the question.
pub fn measure(dir: &Path, all: bool) -> Limits {
    let slot = if all {
        Duration::from_millis(250)
    } else {
        Duration::from_millis(60)
    };
    let measured = |e: std::io::Error| format!("not measured: {e}");
    Limits {
        drive: drive::measure(dir).map_or_else(
            |e| {
                Measured::Failed(format!(
                    "not measured in {}: {e}; name another place with --limits-dir",
                    dir.display()
                ))
            },
            Measured::Ok,
        ),
        loopback: loopback::measure().map_or_else(|e| Measured::Failed(measured(e)), Measured::Ok),
        compute: compute::measure(slot, all),
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.drive {
            Measured::Ok(drive) => writeln!(f, "  drive      {drive}")?,
            Measured::Failed(why) => writeln!(f, "  drive      {why}")?,
        }
        match &self.loopback {
            Measured::Ok(loopback) => writeln!(f, "  loopback   {loopback}")?,
            Measured::Failed(why) => writeln!(f, "  loopback   {why}")?,
        }
        write!(f, "  one core   {}", self.compute)
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, measure};
    use std::time::{Duration, Instant};

    #[test]
    fn the_limits_are_measured_in_a_bounded_time() {
        let began = Instant::now();
        let limits = measure(&std::env::temp_dir(), false);
        // Other tests run beside this one: the bound is far above the two seconds it takes alone.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        assert!(limits.compute.md5_gb_per_s > 0.05);
        assert!(limits.compute.crc64nvme_gb_per_s > limits.compute.md5_gb_per_s);
        let Measured::Ok(loopback) = &limits.loopback else {
            panic!("{:?}", limits.loopback);
        };
        assert!(loopback.cpu_s_per_gb > 0.0 && loopback.gb_per_s > 0.0);
        let text = limits.to_string();
        assert!(text.contains("MD5") && text.contains("loopback"), "{text}");
    }

    #[test]
    fn a_place_that_is_not_there_is_said_and_the_rest_measured() {
        let limits = measure(std::path::Path::new("/nonexistent"), false);
        let Measured::Failed(why) = &limits.drive else {
            panic!("{:?}", limits.drive);
        };
        assert!(why.contains("--limits-dir"), "{why}");
        assert!(limits.compute.memcpy_gb_per_s > 0.1);
    }
}
