//! Frames: `[length u32][crc32c u32][body]`, little-endian; the body is messages one after another,
//! `[id u64][kind u8][length u32][payload]`.
//!
//! Invariant: a frame is taken whole and unharmed or ends its connection.

use std::collections::VecDeque;
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
    last_id: u64,
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
        self.last_id = id;
    }

    /// Whether it should go before it takes this message.
    fn is_full_for(&self, payload: &[u8]) -> bool {
        let outgrown = self.bytes.len() + MESSAGE_HEAD_BYTES + payload.len() > FRAME_BYTES_MAX;
        self.bytes.len() >= FRAME_BYTES_FULL || !self.is_empty() && outgrown
    }

    fn is_empty(&self) -> bool {
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

/// Messages that wait to be sent, in as few frames as may be.
#[derive(Debug, Default)]
pub struct Outbox {
    full: VecDeque<Frame>,
    open: FrameWriter,
}

/// A finished frame.
#[derive(Debug)]
pub struct Frame {
    /// As it is sent.
    pub bytes: BytesMut,
    /// The last message in it.
    pub last_id: u64,
}

impl Outbox {
    /// Adds a message.
    pub fn push(&mut self, id: u64, kind: u8, payload: &[u8]) {
        if self.open.is_full_for(payload) {
            let full = self.finish_open();
            self.full.push_back(full);
        }
        self.open.push(id, kind, payload);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_empty()
    }

    /// The frame that is to be sent next.
    pub fn take(&mut self) -> Option<Frame> {
        let open = |outbox: &mut Self| (!outbox.open.is_empty()).then(|| outbox.finish_open());
        self.full.pop_front().or_else(|| open(self))
    }

    fn finish_open(&mut self) -> Frame {
        let last_id = self.open.last_id;
        let bytes = self.open.finish();
        Frame { bytes, last_id }
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        while read_frame(&mut bytes, FRAME_BYTES_MAX, |message| {
            messages.push(message);
        })
        .await
        .expect("whole frames")
        {}
        messages
    }

    #[tokio::test]
    async fn what_waits_goes_in_few_frames_and_in_order() {
        let mut outbox = Outbox::default();
        assert!(outbox.is_empty() && outbox.take().is_none());
        let large = vec![7; FRAME_BYTES_FULL / 2];
        for id in 1..=5 {
            outbox.push(id, 3, &large);
        }
        let frames: Vec<Frame> = std::iter::from_fn(|| outbox.take()).collect();
        let ends: Vec<u64> = frames.iter().map(|frame| frame.last_id).collect();
        assert_eq!(ends, [2, 4, 5]);
        assert!(outbox.is_empty());
        let bytes: Vec<u8> = frames
            .into_iter()
            .flat_map(|frame| frame.bytes.to_vec())
            .collect();
        let messages = read_all(&bytes).await;
        let ids: Vec<u64> = messages.iter().map(|message| message.id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        assert!(messages.iter().all(|m| m.kind == 3 && m.payload == large));
    }

    #[test]
    fn a_message_as_long_as_a_frame_may_be_goes_alone() {
        let mut outbox = Outbox::default();
        let longest = vec![7; FRAME_BYTES_MAX - MESSAGE_HEAD_BYTES];
        assert!(fits(&longest));
        outbox.push(1, 3, b"short");
        outbox.push(2, 3, &longest);
        outbox.push(3, 3, b"short");
        let frames: Vec<Frame> = std::iter::from_fn(|| outbox.take()).collect();
        let ends: Vec<u64> = frames.iter().map(|frame| frame.last_id).collect();
        assert_eq!(ends, [1, 2, 3]);
        let body = |frame: &Frame| frame.bytes.len() - HEAD_BYTES;
        assert!(
            frames
                .iter()
                .map(body)
                .all(|bytes| bytes <= FRAME_BYTES_MAX)
        );
    }
}
