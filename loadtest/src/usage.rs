//! What processes and disks did, as the system tells. Invariant: a figure that the system does not tell is absent, never zero.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a sector in the system's counts of blocks, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// Bytes written since the start of the system to the disk that `path` lies on, by whomever; `None` where the file system
/// is not on a disk of its own.
///
/// A process's own count (`write_bytes` in `/proc/PID/io`) is of no use: a page that is written again counts with all of
/// the memory it is part of, up to 2 MiB for a write of a few bytes on file systems with large folios.
pub fn disk_written_bytes(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    sectors_written(&stat).map(|sectors| sectors * SECTOR_BYTES)
}

/// The seventh number of a block device's counts.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Usage {
    /// Processor time, in seconds: in user space, in the kernel, and of children that have ended.
    pub cpu_seconds: f64,
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
            resident_bytes: field(&read("status")?, "VmRSS:")? * 1024,
        })
    }

    /// All of several processes.
    pub fn of_all(pids: &[u32]) -> Option<Self> {
        let mut all = Self::default();
        for pid in pids {
            let one = Self::of(*pid)?;
            all.cpu_seconds += one.cpu_seconds;
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
    fn sectors_are_found_in_a_devices_counts() {
        let stat = " 1152307 23767 49437490 2599892 1373390 108820 227379400 607365 0 1 2 3";
        assert_eq!(sectors_written(stat), Some(227_379_400));
        assert_eq!(sectors_written(""), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::own().unwrap();
        assert!(usage.resident_bytes > 100_000);
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
