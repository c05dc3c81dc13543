//! What the disk itself does: appending 4 KiB and syncing them, to a file that grows and to one that was written before.
//!
//! Invariant: the probe's files lie where the servers' data lies, so that it is the same disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// Bytes of one write: a page, as little as a disk writes.
const WRITE_BYTES: usize = 4 << 10;

/// Blocks of the recycled file.
const RECYCLED_BLOCKS: u64 = 256;

/// How long each file is tried: short beside a measurement.
const PROBED_FOR: Duration = Duration::from_millis(150);

/// Median times of one write and fdatasync, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// To a file that grows.
    pub growing_us: u64,
    /// To a file whose blocks were written before.
    pub recycled_us: u64,
}

/// Probes the disk below `directory`.
pub fn probe(directory: &Path) -> Result<Disk, Failure> {
    probed(directory).map_err(|error| {
        let directory = directory.display();
        Failure::Server(format!("cannot probe the disk in {directory}: {error}"))
    })
}

fn probed(directory: &Path) -> io::Result<Disk> {
    let block = [0x71; WRITE_BYTES];
    let mut growing = tempfile::tempfile_in(directory)?;
    let growing_us = median(&mut growing, |file, _| file.write_all(&block))?;
    let mut recycled = tempfile::tempfile_in(directory)?;
    for _ in 0..RECYCLED_BLOCKS {
        recycled.write_all(&block)?;
    }
    recycled.sync_all()?;
    let recycled_us = median(&mut recycled, |file, round| {
        file.write_all_at(&block, round % RECYCLED_BLOCKS * WRITE_BYTES as u64)
    })?;
    Ok(Disk {
        growing_us,
        recycled_us,
    })
}

fn median(
    file: &mut File,
    mut write: impl FnMut(&mut File, u64) -> io::Result<()>,
) -> io::Result<u64> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < PROBED_FOR {
        let one = Instant::now();
        write(file, times.len() as u64)?;
        file.sync_data()?;
        times.push(one.elapsed().as_micros() as u64);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_takes_some_time() {
        let disk = probe(&std::env::temp_dir()).unwrap();
        // A file system in memory syncs within a microsecond; none takes a minute.
        assert!(disk.growing_us < 60_000_000 && disk.recycled_us < 60_000_000);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let failure = probe(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(failure.to_string().contains("/nowhere/at/all"));
    }
}
