//! Frames: `[length u32][crc32c u32][body]`, little-endian; the body is messages one after another,
//! `[id u64][kind u8][length u32][payload]`.
//!
//! Invariant: a frame is taken whole and unharmed or ends its connection.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a frame's body at most: far above the largest message (about a mebibyte of log entries, a
/// page of flows), far below what could exhaust a node's memory.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Bytes after which a frame takes no further message, so that the first in it does not wait long.
pub const FRAME_BYTES_FULL: usize = 256 << 10;

const HEAD_BYTES: usize = 8;
const MESSAGE_HEAD_BYTES: usize = 13;

const _: () = assert!(FRAME_BYTES_FULL < FRAME_BYTES_MAX && FRAME_BYTES_MAX < u32::MAX as usize);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Pairs an answer with its question.
    pub id: u64,
    /// What the payload is.
    pub kind: u8,
    /// Its bytes.
    pub payload: Bytes,
}

/// A frame being written.
#[derive(Debug, Default)]
pub struct FrameWriter {
    bytes: BytesMut,
}

impl FrameWriter {
    /// Adds a message.
    pub fn push(&mut self, id: u64, kind: u8, payload: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.put_bytes(0, HEAD_BYTES);
        }
        self.bytes.put_u64_le(id);
        self.bytes.put_u8(kind);
        self.bytes.put_u32_le(
            u32::try_from(payload.len()).expect("payloads are bounded by their senders"),
        );
        self.bytes.put_slice(payload);
    }

    /// Whether it should go before it takes another message.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FRAME_BYTES_FULL
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished frame of one message or more; the writer is empty again.
    pub fn finish(&mut self) -> BytesMut {
        assert!(!self.is_empty(), "a frame holds at least one message");
        let mut frame = self.bytes.split();
        let body = frame.len() - HEAD_BYTES;
        let length = u32::try_from(body).expect("payloads are bounded by their senders");
        let crc = crc32c::crc32c(&frame[HEAD_BYTES..]);
        frame[0..4].copy_from_slice(&length.to_le_bytes());
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        frame
    }
}

/// Whether a payload can be sent at all.
pub fn fits(payload: &[u8]) -> bool {
    payload.len() + MESSAGE_HEAD_BYTES <= FRAME_BYTES_MAX
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads one frame and hands its messages to `take`; false at the end of the connection. A body longer
/// than `bytes_max` is refused before it is read.
pub async fn read_frame(
    from: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
    mut take: impl FnMut(Message),
) -> io::Result<bool> {
    let mut head = [0u8; HEAD_BYTES];
    match from.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(head[0..4].try_into().expect("four bytes")) as usize;
    let crc = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    if length > bytes_max {
        return Err(wrong(format!(
            "a frame of {length} bytes is longer than the {bytes_max} allowed here: this is no peer, or one of another version"
        )));
    }
    let mut body = BytesMut::zeroed(length);
    from.read_exact(&mut body).await?;
    if crc32c::crc32c(&body) != crc {
        return Err(wrong(format!(
            "a frame of {length} bytes fails its checksum"
        )));
    }
    let mut body = body.freeze();
    while !body.is_empty() {
        if body.len() < MESSAGE_HEAD_BYTES {
            return Err(wrong("a frame ends within a message's head".to_owned()));
        }
        let (id, kind, length) = (body.get_u64_le(), body.get_u8(), body.get_u32_le() as usize);
        if body.len() < length {
            return Err(wrong("a frame ends within a message".to_owned()));
        }
        let payload = body.split_to(length);
        take(Message { id, kind, payload });
    }
    Ok(true)
}
