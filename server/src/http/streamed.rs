//! Bodies of answers: whole in memory, or streamed by a thread that may block.
//!
//! Invariant: of a streamed body only a few blocks are in memory at a time, and whoever does not read for
//! [`STALLED_AFTER`] is given up; a body that breaks off is not ended, so that its reader notices.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Bytes sent at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Blocks that wait for the connection.
const BLOCKS_MAX: usize = 4;

/// After so long without room for a block the reader counts as gone.
const STALLED_AFTER: Duration = Duration::from_mins(1);

/// What comes out of a stream.
pub(super) type Block = io::Result<Bytes>;

/// A body.
pub(super) enum ReplyBody {
    /// In memory.
    Whole(Full<Bytes>),
    /// Still being made.
    Streamed(mpsc::Receiver<Block>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            ReplyBody::Whole(whole) => Pin::new(whole)
                .poll_frame(context)
                .map_err(|never| match never {}),
            ReplyBody::Streamed(blocks) => blocks
                .poll_recv(context)
                .map(|block| block.map(|block| block.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Whole(whole) => whole.is_end_stream(),
            ReplyBody::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Whole(whole) => whole.size_hint(),
            ReplyBody::Streamed(_) => SizeHint::default(),
        }
    }
}

/// Has `write` make a body on a thread that may block.
pub(super) fn stream(
    write: impl FnOnce(&mut BlockWriter) -> io::Result<()> + Send + 'static,
) -> mpsc::Receiver<Block> {
    let (blocks, body) = mpsc::channel(BLOCKS_MAX);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut writer = BlockWriter {
            blocks,
            runtime,
            block: Vec::with_capacity(BLOCK_BYTES),
        };
        let written = write(&mut writer).and_then(|()| io::Write::flush(&mut writer));
        if let Err(error) = written {
            tracing::warn!(%error, "a streamed answer broke off");
            // A reader that is gone needs not be told.
            let _ = writer.send(Err(error));
        }
    });
    body
}

/// Writes a streamed body, block by block. It blocks while the reader is slow.
pub(super) struct BlockWriter {
    blocks: mpsc::Sender<Block>,
    runtime: Handle,
    block: Vec<u8>,
}

impl BlockWriter {
    fn send(&self, block: Block) -> io::Result<()> {
        let sent = self.blocks.send_timeout(block, STALLED_AFTER);
        self.runtime.block_on(sent).map_err(|_| {
            io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the reader has left, or reads nothing",
            )
        })
    }
}

impl io::Write for BlockWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&content[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        self.send(Ok(Bytes::from(block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Write;

    #[tokio::test]
    async fn what_is_written_arrives_whole_and_in_order() {
        let content: Vec<u8> = (0..BLOCK_BYTES * 9 + 5).map(|at| (at * 7) as u8).collect();
        let expected = content.clone();
        let body = ReplyBody::Streamed(stream(move |out| out.write_all(&content)));
        let collected = body.collect().await.unwrap().to_bytes();
        assert!(collected == expected);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error_to_its_reader() {
        let body = ReplyBody::Streamed(stream(|out| {
            out.write_all(&[1; 10])?;
            Err(io::Error::other("the disk is gone"))
        }));
        let error = body.collect().await.unwrap_err();
        assert_eq!(error.to_string(), "the disk is gone");
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_the_writing() {
        let (told, ended) = std::sync::mpsc::channel();
        let body = stream(move |out| {
            let block = vec![1; BLOCK_BYTES];
            let written = loop {
                if let Err(error) = out.write_all(&block) {
                    break error;
                }
            };
            told.send(written.kind()).unwrap();
            Err(written)
        });
        drop(body);
        let kind = tokio::task::spawn_blocking(move || ended.recv())
            .await
            .unwrap();
        assert_eq!(kind, Ok(io::ErrorKind::BrokenPipe));
    }
}
