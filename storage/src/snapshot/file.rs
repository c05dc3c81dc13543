//! One snapshot file: written once, read in order.
//!
//! ```text
//! header   "QIANGSNP", version u32, group u16, index u64, length of meta u32, meta, checksum u32 of all that
//! block*   length u32 (never 0), checksum u32 of (number of the block u64, data), data
//! end      0 u32, checksum u32 of (number of blocks u64, bytes in all u64), bytes in all u64
//! ```
//! Integers are little-endian, checksums CRC-32C. Invariant: a byte changed, a block lost, moved or repeated, a file cut or prolonged
//! anywhere is noticed before its content is handed out, or at the latest when its end is reached.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SnapshotInfo, UNFINISHED};
use crate::directory::sync_directory;
use crate::{GroupId, SnapshotError};

const MAGIC: &[u8; 8] = b"QIANGSNP";
const VERSION: u32 = 1;
/// Bytes of header before the meta: magic, version, group, index, length.
const HEADER_BYTES: usize = 8 + 4 + 2 + 8 + 4;
/// Bytes of content in a block.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes before a block's content: length and checksum.
const FRAME_BYTES: usize = 8;
/// Longest meta accepted, so that a damaged length asks for no absurd memory.
const META_BYTES_MAX: usize = 16 << 20;

/// Writes a snapshot. Dropped before [`SnapshotWriter::finish`], it leaves nothing behind.
pub struct SnapshotWriter {
    file: File,
    /// `None` once the file has its final name.
    unfinished: Option<PathBuf>,
    path: PathBuf,
    index: u64,
    /// A frame to be filled in, then content.
    block: Vec<u8>,
    blocks: u64,
    content_bytes: u64,
    file_bytes: u64,
}

impl SnapshotWriter {
    pub(super) fn create(
        path: &Path,
        group: GroupId,
        index: u64,
        meta: &[u8],
    ) -> Result<Self, SnapshotError> {
        let unfinished = unfinished_path(path);
        let fail = |error| SnapshotError::from_io("creating", path, error);
        if meta.len() > META_BYTES_MAX {
            return Err(fail(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("its meta has {} bytes", meta.len()),
            )));
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&unfinished)
            .map_err(fail)?;
        let header = header(group, index, meta);
        let mut writer = Self {
            file,
            unfinished: Some(unfinished),
            path: path.to_path_buf(),
            index,
            block: vec![0; FRAME_BYTES],
            blocks: 0,
            content_bytes: 0,
            file_bytes: header.len() as u64,
        };
        writer.block.reserve_exact(BLOCK_BYTES);
        writer.file.write_all(&header).map_err(fail)?;
        Ok(writer)
    }

    /// Writes what is left and the end, syncs the file, gives it its name and syncs the directory: only then it exists.
    ///
    /// # Errors
    /// If any of it fails; the snapshot does not exist then, and nothing is left behind.
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        self.try_finish()
            .map_err(|error| SnapshotError::from_io("writing", &self.path, error))?;
        Ok(SnapshotInfo {
            index: self.index,
            path: self.path.clone(),
            bytes: self.file_bytes,
        })
    }

    fn try_finish(&mut self) -> io::Result<()> {
        self.write_block()?;
        let total = self.content_bytes.to_le_bytes();
        let mut end = 0_u32.to_le_bytes().to_vec();
        end.extend_from_slice(&block_checksum(self.blocks, &total).to_le_bytes());
        end.extend_from_slice(&total);
        self.file.write_all(&end)?;
        self.file_bytes += end.len() as u64;
        self.file.sync_all()?;
        if let Some(unfinished) = &self.unfinished {
            fs::rename(unfinished, &self.path)?;
            self.unfinished = None;
        }
        self.path.parent().map_or(Ok(()), sync_directory)
    }

    fn write_block(&mut self) -> io::Result<()> {
        let content = &self.block[FRAME_BYTES..];
        if content.is_empty() {
            return Ok(());
        }
        let checksum = block_checksum(self.blocks, content);
        let length = u32::try_from(content.len()).expect("at most a block");
        self.content_bytes += u64::from(length);
        self.block[..4].copy_from_slice(&length.to_le_bytes());
        self.block[4..FRAME_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.file_bytes += self.block.len() as u64;
        self.blocks += 1;
        self.block.truncate(FRAME_BYTES);
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES + FRAME_BYTES - self.block.len();
        let taken = &content[..content.len().min(room)];
        self.block.extend_from_slice(taken);
        if taken.len() == room {
            self.write_block()?;
        }
        Ok(taken.len())
    }

    /// Nothing to do: content is durable only once the snapshot is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if let Some(unfinished) = self.unfinished.take()
            && let Err(error) = fs::remove_file(&unfinished)
        {
            tracing::warn!(path = %unfinished.display(), %error, "an unfinished snapshot could not be removed");
        }
    }
}

/// Reads a snapshot's content. Damage is an error of kind `InvalidData` (`UnexpectedEof` for a cut file) that names the file; the end of
/// the content is reported only after the file's end was verified.
pub struct SnapshotReader {
    file: BufReader<File>,
    path: PathBuf,
    group: GroupId,
    index: u64,
    meta: Vec<u8>,
    block: Vec<u8>,
    /// How much of `block` was handed out.
    taken: usize,
    blocks: u64,
    content_bytes: u64,
    ended: bool,
}

impl SnapshotReader {
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let fail = |error| SnapshotError::from_io("reading", path, error);
        let mut file = BufReader::with_capacity(BLOCK_BYTES, File::open(path).map_err(fail)?);
        let (group, index, meta) =
            read_header(&mut file).map_err(|error| fail(in_file(path, &error)))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            group,
            index,
            meta,
            block: Vec::new(),
            taken: 0,
            blocks: 0,
            content_bytes: 0,
            ended: false,
        })
    }

    /// What [`super::SnapshotDir::create`] was given.
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// The last index the snapshot contains.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whose snapshot it is.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file once more from its beginning and verifies it, without touching this reader's position.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let mut reader = Self::open(&self.path)?;
        while !reader.ended {
            reader
                .next_block()
                .map_err(|error| SnapshotError::from_io("verifying", &self.path, error))?;
        }
        Ok(())
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.try_next_block()
            .map_err(|error| in_file(&self.path, &error))
    }

    fn try_next_block(&mut self) -> io::Result<()> {
        let length = read_u32(&mut self.file)? as usize;
        let expected = read_u32(&mut self.file)?;
        if length == 0 {
            return self.check_end(expected);
        }
        if length > BLOCK_BYTES {
            return Err(invalid(format!(
                "block {} claims {length} bytes",
                self.blocks
            )));
        }
        self.block.resize(length, 0);
        self.taken = length;
        self.file.read_exact(&mut self.block)?;
        if block_checksum(self.blocks, &self.block) != expected {
            return Err(invalid(format!(
                "block {} does not match its checksum",
                self.blocks
            )));
        }
        self.taken = 0;
        self.blocks += 1;
        self.content_bytes += length as u64;
        Ok(())
    }

    fn check_end(&mut self, expected: u32) -> io::Result<()> {
        let mut total = [0; 8];
        self.file.read_exact(&mut total)?;
        if block_checksum(self.blocks, &total) != expected
            || u64::from_le_bytes(total) != self.content_bytes
        {
            return Err(invalid(format!(
                "its end after {} blocks does not match its checksum",
                self.blocks
            )));
        }
        if self.file.read(&mut [0])? != 0 {
            return Err(invalid("it goes on after its end".into()));
        }
        self.ended = true;
        Ok(())
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.taken == self.block.len() {
            if self.ended {
                return Ok(0);
            }
            self.next_block()?;
            if self.ended {
                return Ok(0);
            }
        }
        let given = buffer.len().min(self.block.len() - self.taken);
        buffer[..given].copy_from_slice(&self.block[self.taken..self.taken + given]);
        self.taken += given;
        Ok(given)
    }
}

/// A name of its own for a file that will be `path`, beside it.
pub(super) fn unfinished_path(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("{}-{number}.{UNFINISHED}", std::process::id()))
}

fn header(group: GroupId, index: u64, meta: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES + meta.len() + 4);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&group.0.to_le_bytes());
    header.extend_from_slice(&index.to_le_bytes());
    header.extend_from_slice(
        &u32::try_from(meta.len())
            .expect("checked against its maximum")
            .to_le_bytes(),
    );
    header.extend_from_slice(meta);
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

fn read_header(file: &mut impl Read) -> io::Result<(GroupId, u64, Vec<u8>)> {
    let mut fixed = [0; HEADER_BYTES];
    file.read_exact(&mut fixed)?;
    let (magic, rest) = fixed.split_first_chunk::<8>().expect("its length");
    let (version, rest) = rest.split_first_chunk::<4>().expect("its length");
    let (group, rest) = rest.split_first_chunk::<2>().expect("its length");
    let (index, rest) = rest.split_first_chunk::<8>().expect("its length");
    let length = rest.first_chunk::<4>().expect("its length");
    if magic != MAGIC {
        return Err(invalid("it is not a snapshot file".into()));
    }
    let version = u32::from_le_bytes(*version);
    if version > VERSION {
        return Err(invalid(format!(
            "it has version {version}, this program reads versions up to {VERSION}"
        )));
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length > META_BYTES_MAX {
        return Err(invalid(format!("its header claims {length} bytes of meta")));
    }
    let mut meta = vec![0; length];
    file.read_exact(&mut meta)?;
    if crc32c::crc32c_append(crc32c::crc32c(&fixed), &meta) != read_u32(file)? {
        return Err(invalid("its header does not match its checksum".into()));
    }
    Ok((
        GroupId(u16::from_le_bytes(*group)),
        u64::from_le_bytes(*index),
        meta,
    ))
}

fn read_u32(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn block_checksum(number: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), content)
}

fn invalid(detail: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

/// Adds the file's name to an error that will travel without it.
fn in_file(path: &Path, error: &io::Error) -> io::Error {
    let detail = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {detail}", path.display()))
}
