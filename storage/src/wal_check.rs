//! Tells a damaged write-ahead file from one that a crash cut short.
//!
//! Point-in-time recovery keeps what comes before the first record that does not verify, and silently drops the rest. After a crash that
//! is right: the rest was never synced. But if a disk damaged a record in the middle, what follows it was acknowledged, and dropping it
//! would lose it without a word. The writer syncs every batch but now and then a single one, so behind a cut that a crash made there
//! can be the beginning of one more batch, never of two. Invariant: if recovery would drop two or more whole batches, the
//! directory is refused before RocksDB changes a byte of it.
//!
//! The format read here is RocksDB's (`db/log_format.h`): blocks of 32 KiB; records of checksum u32 (CRC-32C, masked), length u16, type
//! u8, in files made to be overwritten also the file's number u32; a batch begins in a record of type full or first with its sequence
//! number u64 and its count u32.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::database::RocksDb;
use crate::{OpenError, Options};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = HEADER_BYTES + 4;
/// Bytes of a batch's header: sequence number and count.
const BATCH_HEADER_BYTES: usize = 12;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
const RECYCLABLE_FULL: u8 = 5;
const RECYCLABLE_FIRST: u8 = 6;
const RECYCLABLE_LAST: u8 = 8;
/// Batches that may begin behind a cut that a crash made.
const UNSYNCED_BATCHES_MAX: usize = 1;

/// What a write-ahead file holds.
#[derive(Debug, Default)]
struct Scan {
    path: PathBuf,
    number: u64,
    /// The first batch's sequence number.
    first: Option<u64>,
    /// The sequence number after the last batch before the first record that does not verify.
    end: u64,
    /// Where that record is.
    cut_at: Option<u64>,
    /// The greatest sequence numbers of batches, the greatest first: one more than may be lost.
    greatest: [u64; UNSYNCED_BATCHES_MAX + 1],
    /// Batches found behind the cut.
    behind: usize,
}

/// Refuses a database whose recovery would lose what was acknowledged.
pub(crate) fn check(database: &Path, options: &Options) -> Result<(), OpenError> {
    let mut scans = Vec::new();
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(database)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    for path in list().map_err(|error| OpenError::from_io("listing", database, &error))? {
        let is_wal = path.extension().is_some_and(|extension| extension == "log");
        if let Some(number) = path
            .file_stem()
            .filter(|_| is_wal)
            .and_then(|stem| stem.to_str()?.parse().ok())
        {
            scans.push(
                scan(&path, number)
                    .map_err(|error| OpenError::from_io("reading", &path, &error))?,
            );
        }
    }
    if scans.is_empty() {
        // RocksDB always leaves at least the one it was writing.
        let detail = "it has no write-ahead file".to_owned();
        return Err(OpenError::Corrupt {
            file: database.to_path_buf(),
            detail,
        });
    }
    scans.sort_by_key(|scan| scan.number);
    let Some(damaged) = first_damage(&scans) else {
        return Ok(());
    };
    // Files that wait to be overwritten hold nothing that counts, and they too look interrupted here. So ask what recovery makes of it.
    let recovered = RocksDb::open_read_only(database, options)?
        .db()
        .latest_sequence_number();
    let mut greatest: Vec<u64> = scans.iter().flat_map(|scan| scan.greatest).collect();
    greatest.sort_unstable_by(|a, b| b.cmp(a));
    if greatest[UNSYNCED_BATCHES_MAX] <= recovered {
        return Ok(());
    }
    let detail = match damaged.cut_at {
        Some(offset) => format!(
            "the record at byte {offset} does not match its checksum, though whole records follow it"
        ),
        None => "records are missing between it and the next write-ahead file".to_owned(),
    };
    Err(OpenError::Corrupt {
        file: damaged.path.clone(),
        detail,
    })
}

/// The first file, if any, behind whose readable part there is more than a crash leaves.
fn first_damage(scans: &[Scan]) -> Option<&Scan> {
    scans.iter().enumerate().find_map(|(at, scan)| {
        let next = scans[at + 1..].iter().find_map(|scan| scan.first);
        let hole = scan.first.is_some() && next.is_some_and(|next| next > scan.end);
        (scan.behind > UNSYNCED_BATCHES_MAX || hole).then_some(scan)
    })
}

fn scan(path: &Path, number: u64) -> io::Result<Scan> {
    let mut scan = Scan {
        path: path.to_path_buf(),
        number,
        ..Scan::default()
    };
    let mut file = BufReader::with_capacity(8 * BLOCK_BYTES, File::open(path)?);
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut block_at = 0;
    // The beginning of a batch counts only with its end.
    let mut open_batch = None;
    loop {
        block.clear();
        file.by_ref()
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(scan);
        }
        scan_block(&mut scan, &block, block_at, &mut open_batch);
        block_at += block.len() as u64;
    }
}

/// A batch's sequence number and count.
type Batch = (u64, u64);

fn scan_block(scan: &mut Scan, block: &[u8], block_at: u64, open_batch: &mut Option<Batch>) {
    let mut at = 0;
    while block.len() - at >= HEADER_BYTES {
        match record(&block[at..], scan.number) {
            Record::Valid {
                kind,
                content,
                length,
            } => {
                at += length;
                match kind {
                    FULL | RECYCLABLE_FULL => scan.on_batch(batch_header(content)),
                    FIRST | RECYCLABLE_FIRST => *open_batch = batch_header(content),
                    LAST | RECYCLABLE_LAST => scan.on_batch(open_batch.take()),
                    _ => {}
                }
            }
            Record::Damaged { length } => {
                *open_batch = None;
                scan.cut_at.get_or_insert(block_at + at as u64);
                // Its length may still be right; if not, what is found behind it will not verify.
                at = block.len().min(at + length);
            }
        }
    }
}

impl Scan {
    fn on_batch(&mut self, batch: Option<Batch>) {
        let Some((sequence, count)) = batch else {
            return;
        };
        if count == 0 {
            return;
        }
        if self.cut_at.is_none() {
            self.first.get_or_insert(sequence);
            self.end = sequence + count;
        } else {
            self.behind += 1;
        }
        let last = sequence + count - 1;
        let place = self.greatest.partition_point(|greater| *greater > last);
        if place < self.greatest.len() {
            self.greatest[place..].rotate_right(1);
            self.greatest[place] = last;
        }
    }
}

enum Record<'a> {
    Valid {
        kind: u8,
        content: &'a [u8],
        length: usize,
    },
    /// Not a record of this file; skip so many bytes.
    Damaged { length: usize },
}

fn record(bytes: &[u8], file_number: u64) -> Record<'_> {
    let header = &bytes[..HEADER_BYTES];
    let expected = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let content_bytes = usize::from(u16::from_le_bytes(
        header[4..6].try_into().expect("two bytes"),
    ));
    let kind = header[6];
    let recyclable =
        (RECYCLABLE_FULL..=RECYCLABLE_LAST).contains(&kind) || (kind > 9 && kind & 1 == 1);
    let header_bytes = if recyclable {
        RECYCLABLE_HEADER_BYTES
    } else {
        HEADER_BYTES
    };
    let length = header_bytes + content_bytes;
    if kind == 0 || length > bytes.len() {
        return Record::Damaged {
            length: bytes.len(),
        };
    }
    let content = &bytes[header_bytes..length];
    let found = crc32c::crc32c_append(
        crc32c::crc32c(&bytes[HEADER_BYTES - 1..header_bytes]),
        content,
    );
    let is_ours =
        !recyclable || bytes[HEADER_BYTES..header_bytes] == file_number.to_le_bytes()[..4];
    if mask(found) == expected && is_ours {
        Record::Valid {
            kind,
            content,
            length,
        }
    } else {
        Record::Damaged { length }
    }
}

/// RocksDB stores checksums masked, because it also stores checksums of data that contains checksums.
fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn batch_header(content: &[u8]) -> Option<Batch> {
    let header = content.get(..BATCH_HEADER_BYTES)?;
    let sequence = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
    let count = u32::from_le_bytes(header[8..].try_into().expect("four bytes"));
    Some((sequence, u64::from(count)))
}
