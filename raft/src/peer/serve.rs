//! Answering peers: one task per accepted connection.
//!
//! Invariant: a handler sees the questions of a connection in the order they were asked, and each of
//! its answers is polled once before the next question is handed over. What a handler hands on in that first
//! poll is thus in order, whenever the answers come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::frame::{FRAME_BYTES_MAX, FrameWriter, Message, fits, read_frame};
use super::hello::{Credentials, receive_introduction};
use super::{BoxFuture, Lane, Stream};
use crate::world::{others_first, spawn};

/// How long a stranger may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Questions of one connection under way at once; past it, reading pauses and the asking side's queue
/// fills.
const UNDER_WAY_MAX: usize = 8192;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// The node that asks.
    pub from: u64,
    /// Whether it shows this cluster's identity; a node that wants to join shows none.
    pub is_member: bool,
    /// The lane it asks on.
    pub lane: Lane,
}

/// An answer that is being prepared; `None` closes the connection.
pub type Answering = BoxFuture<Option<Bytes>>;

/// Whoever answers questions.
pub trait Handler: Send + Sync + 'static {
    /// Begins to answer.
    fn handle(&self, from: Incoming, kind: u8, payload: Bytes) -> Answering;
}

/// Serves one connection until it ends. An error is told in one line, whatever a stranger sends.
pub async fn serve(stream: Box<dyn Stream>, credentials: Credentials, handler: Arc<dyn Handler>) {
    if let Err(error) = serve_connection(stream, credentials, handler).await {
        tell_dropped(&error);
    }
}

/// Tells in one line why a connection was dropped.
pub(crate) fn tell_dropped(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => {
            tracing::debug!(%error, "a peer's connection ended");
        }
        _ => tracing::warn!(%error, "a connection on the peer port was dropped"),
    }
}

async fn serve_connection(
    mut stream: Box<dyn Stream>,
    credentials: Credentials,
    handler: Arc<dyn Handler>,
) -> io::Result<()> {
    let introduced = timeout(
        HELLO_TIMEOUT,
        receive_introduction(stream.as_mut(), &credentials),
    )
    .await;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "a stranger did not say who it is");
    let Some(hello) = introduced.map_err(late)?? else {
        return Ok(());
    };
    let incoming = Incoming {
        from: hello.who.node_id,
        is_member: !hello.who.cluster_id.is_empty(),
        lane: hello.lane,
    };
    let incarnation = credentials.who().incarnation;
    let (reader, writer) = split(stream);
    let (answers, answered) = mpsc::channel(UNDER_WAY_MAX);
    let writing = spawn(write_answers(writer, answered));
    let still_ours =
        move || incoming.lane == Lane::Recovery || credentials.who().incarnation == incarnation;
    let read = read_questions(reader, incoming, handler, answers, still_ours).await;
    writing.abort();
    read
}

type Answer = (u64, Bytes, OwnedSemaphorePermit);

async fn read_questions(
    reader: ReadHalf<Box<dyn Stream>>,
    incoming: Incoming,
    handler: Arc<dyn Handler>,
    answers: mpsc::Sender<Answer>,
    still_ours: impl Fn() -> bool,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut questions: Vec<Message> = Vec::new();
    let (closing, mut closed) = mpsc::channel::<()>(1);
    loop {
        let read = read_frame(&mut reader, FRAME_BYTES_MAX, |message| {
            questions.push(message);
        });
        let more = tokio::select! {
            biased;
            _ = closed.recv() => return Ok(()),
            more = read => more?,
        };
        // A connection of the cluster's past life ends with it.
        if !more || !still_ours() {
            return Ok(());
        }
        for Message { id, kind, payload } in questions.drain(..) {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let mut answering = handler.handle(incoming, kind, payload);
            let answers = answers.clone();
            if let std::task::Poll::Ready(answer) = futures::poll!(&mut answering) {
                let Some(answer) = answer else { return Ok(()) };
                // Whoever asked has gone if this fails.
                let _ = answers.send((id, answer, place)).await;
                continue;
            }
            let closing = closing.clone();
            spawn(async move {
                match answering.await {
                    // As above.
                    Some(answer) => drop(answers.send((id, answer, place)).await),
                    None => drop(closing.try_send(())),
                }
            });
        }
    }
}

async fn write_answers(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut answered: mpsc::Receiver<Answer>,
) -> io::Result<()> {
    let mut frame = FrameWriter::default();
    while let Some(first) = answered.recv().await {
        // One frame carries what all that are ready to answer say.
        others_first().await;
        let mut next = Some(first);
        while let Some((id, payload, _place)) = next {
            assert!(fits(&payload), "answers are bounded by those who make them");
            frame.push(id, 0, &payload);
            next = if frame.is_full() {
                None
            } else {
                answered.try_recv().ok()
            };
        }
        writer.write_all(&frame.finish()).await?;
        writer.flush().await?;
    }
    Ok(())
}
