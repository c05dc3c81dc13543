//! Answering peers: one task per accepted connection.
//!
//! Invariant: a handler sees the questions of a connection in the order they were asked, one at a time. What it hands on
//! before it returns is thus in order, whenever the answers come.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::frame::{FRAME_BYTES_MAX, Message, Outbox, fits, read_frame};
use super::hello::{Credentials, receive_introduction};
use super::{Lane, Stream};
use crate::world::{others_first, spawn};

/// How long a stranger may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Questions of one connection under way at once; past it, at the end of a frame, reading pauses and the asking side's
/// queue fills.
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

/// Whoever answers questions.
pub trait Handler: Send + Sync + 'static {
    /// Begins to answer.
    fn handle(&self, from: Incoming, kind: u8, payload: Bytes, to: Responder);
}

/// Takes the answer to one question. Dropped without one, whoever asked waits for as long as they like.
pub struct Responder {
    line: Arc<Line>,
    id: u64,
}

impl Responder {
    /// Answers. Answers that are given one after the other leave together.
    pub fn answer(self, payload: &[u8]) {
        assert!(fits(payload), "answers are bounded by those who make them");
        let mut outbox = self.line.lock();
        let is_first = outbox.is_empty();
        outbox.push(self.id, 0, payload);
        drop(outbox);
        if is_first {
            self.line.answered.notify_one();
        }
    }

    /// Answers with what `answering` comes to. It is polled once before this returns.
    pub fn answer_with(self, answering: impl Future<Output = Bytes> + Send + 'static) {
        let mut answering = Box::pin(answering);
        match (&mut answering).now_or_never() {
            Some(answer) => self.answer(&answer),
            None => drop(spawn(async move { self.answer(&answering.await) })),
        }
    }

    /// Closes the connection.
    pub fn hang_up(self) {
        self.line.hung_up.notify_one();
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.line.under_way.fetch_sub(1, Ordering::AcqRel) == UNDER_WAY_MAX {
            self.line.has_room.notify_one();
        }
    }
}

/// What a connection shares with those who answer.
#[derive(Default)]
struct Line {
    answers: Mutex<Outbox>,
    answered: Notify,
    /// Questions read whose responders are still there.
    under_way: AtomicUsize,
    has_room: Notify,
    hung_up: Notify,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, id: u64) -> Responder {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Responder {
            line: self.clone(),
            id,
        }
    }

    /// Waits until fewer than [`UNDER_WAY_MAX`] questions are under way.
    async fn room(&self) {
        while self.under_way.load(Ordering::Acquire) >= UNDER_WAY_MAX {
            self.has_room.notified().await;
        }
    }
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
    let line = Arc::new(Line::default());
    let still_ours =
        || incoming.lane == Lane::Recovery || credentials.who().incarnation == incarnation;
    // Answers before further questions, however many of those come.
    tokio::select! {
        biased;
        written = write_answers(writer, &line) => written,
        read = read_questions(reader, incoming, handler, &line, still_ours) => read,
    }
}

async fn read_questions(
    reader: ReadHalf<Box<dyn Stream>>,
    incoming: Incoming,
    handler: Arc<dyn Handler>,
    line: &Arc<Line>,
    still_ours: impl Fn() -> bool,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut questions: Vec<Message> = Vec::new();
    loop {
        let read = async {
            line.room().await;
            read_frame(&mut reader, FRAME_BYTES_MAX, |message| {
                questions.push(message);
            })
            .await
        };
        let more = tokio::select! {
            biased;
            () = line.hung_up.notified() => return Ok(()),
            more = read => more?,
        };
        // A connection of the cluster's past life ends with it.
        if !more || !still_ours() {
            return Ok(());
        }
        for Message { id, kind, payload } in questions.drain(..) {
            handler.handle(incoming, kind, payload, line.begin(id));
        }
    }
}

async fn write_answers(mut writer: WriteHalf<Box<dyn Stream>>, line: &Line) -> io::Result<()> {
    loop {
        line.answered.notified().await;
        // One frame carries what all that are ready to answer say.
        others_first().await;
        loop {
            let Some(frame) = line.lock().take() else {
                break;
            };
            writer.write_all(&frame.bytes).await?;
        }
        writer.flush().await?;
    }
}
