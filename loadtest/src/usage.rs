//! What processes cost, from `/proc`. Invariant: a figure that the system does not tell is absent, never zero.

use std::fs;
use std::path::Path;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Usage {
    /// Processor time, in seconds: in user space, in the kernel, and of children that have ended.
    pub cpu_seconds: f64,
    /// Bytes it caused to be written to disks.
    pub disk_bytes: u64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// The process `pid`; `None` where there is no such process, or no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        let home = format!("/proc/{pid}");
        let home = Path::new(&home);
        let read = |name: &str| fs::read_to_string(home.join(name)).ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: cpu_ticks(&read("stat")?)? as f64 / ticks,
            disk_bytes: field(&read("io")?, "write_bytes:")?,
            resident_bytes: field(&read("status")?, "VmRSS:")? * 1024,
        })
    }

    /// All of several processes.
    pub fn of_all(pids: &[u32]) -> Option<Self> {
        let mut all = Self::default();
        for pid in pids {
            let one = Self::of(*pid)?;
            all.cpu_seconds += one.cpu_seconds;
            all.disk_bytes += one.disk_bytes;
            all.resident_bytes += one.resident_bytes;
        }
        Some(all)
    }
}

/// utime, stime, cutime, cstime: the 14th to 17th fields, counted from the name's end, since a name may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let times = rest.split_whitespace().skip(11).take(4);
    times.map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "12 (a ) b) S 1 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 9 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(127));
        assert_eq!(cpu_ticks("12 (a) S 1"), Some(0));
        assert_eq!(cpu_ticks("nothing"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::own().unwrap();
        assert!(usage.resident_bytes > 100_000);
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
