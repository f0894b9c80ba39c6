//! What processes of this machine cost, from procfs (proc(5), proc_pid_stat(5), proc_pid_status(5)).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

/// CPU time of some processes, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuTime {
    pub user_s: f64,
    pub system_s: f64,
}

impl CpuTime {
    /// User and system together.
    pub fn total_s(&self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user_s: self.user_s - earlier.user_s,
            system_s: self.system_s - earlier.system_s,
        }
    }
}

/// CPU time of `pids` so far: all threads, those that ended too; not their children.
pub fn cpu_time(pids: &[u32]) -> io::Result<CpuTime> {
    let mut sum = CpuTime::default();
    for pid in pids {
        let time = stat_cpu_time(Path::new(&format!("/proc/{pid}/stat")))?;
        sum.user_s += time.user_s;
        sum.system_s += time.system_s;
    }
    Ok(sum)
}

/// CPU time of this process so far.
pub fn own_cpu_time() -> io::Result<CpuTime> {
    stat_cpu_time(Path::new("/proc/self/stat"))
}

/// CPU time of the calling thread so far, in seconds, to the nanosecond.
pub fn thread_cpu_s() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: Option<u64> = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    nanos
        .map(|nanos| nanos as f64 / 1e9)
        .ok_or_else(|| unreadable("schedstat"))
}

fn stat_cpu_time(path: &Path) -> io::Result<CpuTime> {
    let text = fs::read_to_string(path)?;
    let ticks_per_s = clock_ticks_per_s();
    let (user, system) = stat_ticks(&text).ok_or_else(|| unreadable("stat"))?;
    Ok(CpuTime {
        user_s: user as f64 / ticks_per_s,
        system_s: system as f64 / ticks_per_s,
    })
}

/// utime and stime, fields 14 and 15. The name in field 2 may hold spaces and parentheses.
fn stat_ticks(text: &str) -> Option<(u64, u64)> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The unit of CPU times in procfs: AT_CLKTCK (17) of the auxiliary vector, else Linux's 100.
fn clock_ticks_per_s() -> f64 {
    let vector = fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| {
        bytes
            .try_into()
            .map(usize::from_ne_bytes)
            .unwrap_or_default()
    };
    const WORD: usize = size_of::<usize>();
    vector
        .chunks_exact(2 * WORD)
        .find(|entry| word(&entry[..WORD]) == 17)
        .map_or(100.0, |entry| word(&entry[WORD..]) as f64)
}

/// Resident memory of some processes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

/// Resident memory of `pids`, now and at most since they started (VmRSS, VmHWM).
pub fn memory(pids: &[u32]) -> io::Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line
                .trim_start_matches(':')
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()?;
            Some(kib * 1024)
        };
        sum.now += field("VmRSS").ok_or_else(|| unreadable("status"))?;
        sum.peak += field("VmHWM").ok_or_else(|| unreadable("status"))?;
    }
    Ok(sum)
}

/// What all processors did so far, in core-seconds (first line of /proc/stat).
#[derive(Debug, Clone, Copy, Default)]
pub struct Processors {
    pub busy_s: f64,
    pub steal_s: f64,
}

/// What all processors did so far.
pub fn processors() -> io::Result<Processors> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else {
        return Err(unreadable("stat"));
    };
    let ticks_per_s = clock_ticks_per_s();
    Ok(Processors {
        busy_s: (user + nice + system + irq + softirq) / ticks_per_s,
        steal_s: steal / ticks_per_s,
    })
}

/// Whether `address` is one of this machine's: only then is its server's cost there to be read.
pub fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// The processes that listen on `port` of this machine. Empty if there is none, or none that this user may look
/// into.
pub fn listeners(port: u16) -> io::Result<Vec<u32>> {
    let mut sockets = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(listening_inodes(&text, port)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let names: HashSet<String> = sockets
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Processes of other users, and ones that have ended meanwhile, cannot be read.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| names.contains(target)));
        if holds {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// Inodes of the sockets of a /proc/net/tcp table that listen (state 0A) on `port`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local_port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        let listens = *fields.get(3)? == "0A" && local_port == port;
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("procfs: {file} is not of the form that proc(5) gives"),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        cpu_time, is_local, listeners, listening_inodes, memory, own_cpu_time, stat_ticks,
        thread_cpu_s,
    };
    use std::hint::black_box;
    use std::net::TcpListener;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 120 34 0 0 20 0 8 0 100";
        assert_eq!(
            stat_ticks(&format!("17 (holdfast) {tail}")),
            Some((120, 34))
        );
        assert_eq!(
            stat_ticks(&format!("17 (a b) c) 9 9) {tail}")),
            Some((120, 34))
        );
        assert_eq!(stat_ticks("17 (short) S 1 2"), None);
    }

    #[test]
    fn work_shows_as_cpu_time_of_the_process_and_of_the_thread() {
        let pid = std::process::id();
        let (process, thread) = (
            cpu_time(&[pid]).expect("procfs"),
            thread_cpu_s().expect("procfs"),
        );
        let mut sum = 0u64;
        while thread_cpu_s().expect("procfs") - thread < 0.1 {
            sum = (0..100_000u64).fold(sum, |sum, n| black_box(sum ^ n.wrapping_mul(31)));
        }
        let used = cpu_time(&[pid]).expect("procfs").since(&process).total_s();
        assert!(used >= 0.08, "{used} s");
        assert!(own_cpu_time().expect("procfs").total_s() >= used);
    }

    #[test]
    fn memory_that_was_touched_counts() {
        let pid = std::process::id();
        let before = memory(&[pid]).expect("procfs");
        let block = vec![1u8; 64 << 20];
        let after = memory(&[pid]).expect("procfs");
        assert!(after.peak >= before.now + black_box(&block).len() as u64 - (8 << 20));
        assert!(after.peak >= after.now);
    }

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(listeners(port).expect("procfs"), [std::process::id()]);
        drop(listener);
        assert_eq!(listeners(port).expect("procfs"), [0u32; 0]);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100\n\
            1: 0100007F:2328 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100\n\
            2: 0100007F:2329 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0 100\n";
        assert_eq!(listening_inodes(table, 9000), [4242]);
    }

    #[test]
    fn loopback_is_local_and_documentation_addresses_are_not() {
        assert!(is_local("127.0.0.1".parse().expect("an address")));
        assert!(!is_local("192.0.2.1".parse().expect("an address")));
    }
}
