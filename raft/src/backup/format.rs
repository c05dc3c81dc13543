//! A backup file: written once, read in order, by nothing but `Read` and `Write`.
//!
//! ```text
//! head    "QIANGBAK", version u32
//! frame*  kind u8, length u32, payload, checksum u32
//!   header     the encoded header, which names every group and where it is cut
//!   data       bytes of the present group's state, at most a block
//!   group end  bytes of the group's state in all u64
//!   end        bytes of all groups' states u64
//! ```
//! The header comes first, then for each group that it names, in that order, its data and its end, then the end.
//! Integers are little-endian. A checksum is the CRC-32C of the whole file before it, checksums apart: so the last one
//! is over everything.
//!
//! Invariant: a byte changed, a frame lost, moved or repeated, a file cut or prolonged anywhere is noticed before the
//! frame's content is handed out, or at the latest when the end is reached.

use std::io::{self, Read, Write};

use qiang_engine::routing::Sharing;
use qiang_engine::{UnixMs, codec};
use qiang_storage::GroupId;
use serde::{Deserialize, Serialize};

use crate::groups::all;

const MAGIC: &[u8; 8] = b"QIANGBAK";

/// The version of the file that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// Bytes of state in one frame.
const BLOCK_BYTES: usize = 64 << 10;

/// Longest payload of a frame, so that a damaged length asks for no absurd memory.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(BLOCK_BYTES <= PAYLOAD_BYTES_MAX);

/// Bytes of a frame before its payload: kind and length.
const FRAME_BYTES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header = 1,
    Data = 2,
    GroupEnd = 3,
    End = 4,
}

/// Whose backup it is, from when, and where every group is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster.
    pub cluster_id: String,
    /// Which life of the cluster.
    pub incarnation: u64,
    /// The node that wrote it.
    pub node_id: u64,
    /// The version of that node's binary.
    pub version: String,
    /// When, by that node's clock.
    pub at: UnixMs,
    /// Every group: the shards' in order, then meta.
    pub cuts: Vec<Cut>,
}

/// Where a group is cut: the last log entry whose effect is in the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The group's number: the shards' are those of their logs, meta's is above all.
    pub group: u16,
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// The node that led in this term.
    pub leader: u64,
}

impl Header {
    /// How the cluster's shards share logs; `None` where the groups are none that can be.
    pub(crate) fn sharing(&self) -> Option<Sharing> {
        let logs = self.cuts.len().checked_sub(1)?;
        Sharing::over(u16::try_from(logs).ok()?)
    }
}

impl Cut {
    pub(crate) fn group_id(self) -> GroupId {
        GroupId(self.group)
    }
}

/// Why a file is not a backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("it is not a backup")]
    NotABackup,
    /// A newer binary wrote it.
    #[error("it has version {found}, this program reads versions up to {VERSION}: use a newer one")]
    Newer {
        /// The file's version.
        found: u32,
    },
    /// It ends before its end.
    #[error("it is cut short after {bytes} bytes")]
    CutShort {
        /// Bytes that could be read.
        bytes: u64,
    },
    /// It is not what was written.
    #[error("it is damaged: {detail}")]
    Damaged {
        /// What is wrong with it.
        detail: String,
    },
}

fn damaged(detail: impl Into<String>) -> BackupError {
    BackupError::Damaged {
        detail: detail.into(),
    }
}

/// Writes a backup: its header, then, as a `Write`, the state of each group in the header's order.
pub struct Writer<W> {
    out: W,
    checksum: u32,
    /// State that does not fill a block yet.
    block: Vec<u8>,
    group_bytes: u64,
    all_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the head and the header.
    ///
    /// # Errors
    /// If `out` does not take it.
    pub fn begin(out: W, header: &Header) -> io::Result<Self> {
        let mut writer = Writer {
            out,
            checksum: 0,
            block: Vec::with_capacity(BLOCK_BYTES),
            group_bytes: 0,
            all_bytes: 0,
        };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.frame(Kind::Header, &codec::encode(header))?;
        Ok(writer)
    }

    /// Ends the present group: the next byte written is the next group's first.
    ///
    /// # Errors
    /// If the output does not take it.
    pub fn end_group(&mut self) -> io::Result<()> {
        self.write_block()?;
        self.frame(Kind::GroupEnd, &self.group_bytes.to_le_bytes())?;
        self.all_bytes += self.group_bytes;
        self.group_bytes = 0;
        Ok(())
    }

    /// Ends the file and gives the output back, flushed.
    ///
    /// # Errors
    /// If the output does not take it.
    pub fn finish(mut self) -> io::Result<W> {
        self.frame(Kind::End, &self.all_bytes.to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        self.frame(Kind::Data, &block)?;
        self.group_bytes += block.len() as u64;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other(format!("a frame of {length} bytes")));
        }
        self.put(&[kind as u8])?;
        self.put(&length.to_le_bytes())?;
        self.put(payload)?;
        self.out.write_all(&self.checksum.to_le_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.out.write_all(bytes)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&content[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.write_block()?;
        }
        Ok(taken)
    }

    /// Nothing to do: a block is written when it is full or the group ends.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a backup: its header, then, as a `Read`, the state of one group after the other.
pub struct Reader<R> {
    input: R,
    checksum: u32,
    /// Bytes of the file taken so far.
    position: u64,
    header: Header,
    /// Groups begun so far.
    begun: usize,
    in_group: bool,
    block: Vec<u8>,
    taken: usize,
    group_bytes: u64,
    all_bytes: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the head and the header.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn begin(input: R) -> Result<Self, BackupError> {
        let nothing = Header {
            cluster_id: String::new(),
            incarnation: 0,
            node_id: 0,
            version: String::new(),
            at: UnixMs(0),
            cuts: Vec::new(),
        };
        let mut reader = Reader {
            input,
            checksum: 0,
            position: 0,
            header: nothing,
            begun: 0,
            in_group: false,
            block: Vec::new(),
            taken: 0,
            group_bytes: 0,
            all_bytes: 0,
        };
        let mut magic = [0; MAGIC.len()];
        reader.take_bytes(&mut magic)?;
        if &magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let found = reader.take_u32()?;
        if found > VERSION {
            return Err(BackupError::Newer { found });
        }
        let (kind, payload) = reader.frame()?;
        if kind != Kind::Header {
            return Err(damaged("it does not begin with a header"));
        }
        let wrong = |error| damaged(format!("its header cannot be read: {error}"));
        reader.header = codec::decode(&payload).map_err(wrong)?;
        let named = || reader.header.cuts.iter().map(|cut| cut.group_id());
        let names_all = |sharing| named().eq(all(sharing));
        if !reader.header.sharing().is_some_and(names_all) {
            return Err(damaged("its header does not name every group"));
        }
        Ok(reader)
    }

    /// Whose backup it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Goes on to the next group, whose state is what is read from now on; `None` after the last, when the end of the file
    /// has been checked. What was not read of the group before is passed over, checked as well.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn next_group(&mut self) -> Result<Option<Cut>, BackupError> {
        self.skip_group()?;
        if let Some(cut) = self.header.cuts.get(self.begun) {
            self.begun += 1;
            self.in_group = true;
            self.group_bytes = 0;
            return Ok(Some(*cut));
        }
        let (kind, payload) = self.frame()?;
        if kind != Kind::End || payload != self.all_bytes.to_le_bytes() {
            return Err(damaged("its end is not where it should be"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(damaged("it goes on after its end"));
        }
        Ok(None)
    }

    /// Passes over what is left of the present group; the bytes of its whole state.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn skip_group(&mut self) -> Result<u64, BackupError> {
        while self.in_group {
            self.next_block()?;
        }
        Ok(self.group_bytes)
    }

    fn next_block(&mut self) -> Result<(), BackupError> {
        let (kind, payload) = self.frame()?;
        self.taken = 0;
        self.block.clear();
        match kind {
            Kind::Data if !payload.is_empty() => {
                self.group_bytes += payload.len() as u64;
                self.block = payload;
                Ok(())
            }
            Kind::GroupEnd if payload == self.group_bytes.to_le_bytes() => {
                self.in_group = false;
                self.all_bytes += self.group_bytes;
                Ok(())
            }
            kind => Err(damaged(format!(
                "a frame of the kind {kind:?} before byte {} is out of place",
                self.position
            ))),
        }
    }

    fn frame(&mut self) -> Result<(Kind, Vec<u8>), BackupError> {
        let mut head = [0; FRAME_BYTES];
        self.take_bytes(&mut head)?;
        let [kind, length @ ..] = head;
        let kind = match kind {
            1 => Kind::Header,
            2 => Kind::Data,
            3 => Kind::GroupEnd,
            4 => Kind::End,
            other => {
                return Err(damaged(format!(
                    "there is no frame of the kind {other}, as before byte {}",
                    self.position
                )));
            }
        };
        let length = u32::from_le_bytes(length) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(damaged(format!(
                "a frame before byte {} claims {length} bytes",
                self.position
            )));
        }
        let mut payload = std::mem::take(&mut self.block);
        payload.resize(length, 0);
        self.take_bytes(&mut payload)?;
        let expected = self.checksum;
        let mut found = [0; 4];
        self.fill(&mut found)?;
        if u32::from_le_bytes(found) != expected {
            return Err(damaged(format!(
                "what is before byte {} does not match its checksum",
                self.position
            )));
        }
        Ok((kind, payload))
    }

    fn take_u32(&mut self) -> Result<u32, BackupError> {
        let mut bytes = [0; 4];
        self.take_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads what the checksum is over.
    fn take_bytes(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.fill(bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.position += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(BackupError::CutShort {
                    bytes: self.position,
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.taken == self.block.len() {
            if !self.in_group {
                return Ok(0);
            }
            self.next_block().map_err(|error| match error {
                BackupError::Io(error) => error,
                error => io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
        }
        let given = buffer.len().min(self.block.len() - self.taken);
        buffer[..given].copy_from_slice(&self.block[self.taken..self.taken + given]);
        self.taken += given;
        Ok(given)
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
