//! Asking peers. A link is one lane to one node: what waits to be sent, who waits for answers, and a task that keeps a
//! connection while there is something to say.
//!
//! Invariant: a connection that fails is tried again only after a pause that doubles; meanwhile every
//! question ends at once with `NotSent`, so nobody spins on a node that is down.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fxhash::FxHashMap;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::frame::{FRAME_BYTES_MAX, FrameWriter, Message, Outbox, fits, read_frame};
use super::hello::{Credentials, Identified, introduce};
use super::{Dial, Lane, Stream};
use crate::world::{Home, others_first, random_below, spawn};

/// Questions that may wait for one lane's connection; past it the answer is `NotSent` at once.
const QUEUE_MAX: u64 = 16_384;

/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause after a failed connection: the first, and the longest. A node that restarts is found
/// again within the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long a connection may be silent while answers are awaited. It is longer than any round trip and
/// any sync of a healthy disk; what is silent for longer is likely cut, and a fresh connection finds
/// the way sooner than the old one's retransmissions.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long a connection without any traffic is kept.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It certainly never left this node.
    #[error("not sent: {0}")]
    NotSent(Arc<str>),
    /// It was sent, and the connection broke before the answer.
    #[error("the connection broke before the answer")]
    Broken,
    /// It was sent, and no answer came in time.
    #[error("no answer in time")]
    TimedOut,
}

/// Where an answer goes.
type Caller = oneshot::Sender<Result<Bytes, CallError>>;

/// A question on its way. Dropping it gives the answer up, not the question.
pub struct Call(oneshot::Receiver<Result<Bytes, CallError>>);

impl Call {
    /// Waits for the answer, at most for `patience`.
    pub async fn within(self, patience: Duration) -> Result<Bytes, CallError> {
        timeout(patience, self)
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }
}

impl Future for Call {
    type Output = Result<Bytes, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|received| received.unwrap_or(Err(CallError::Broken)))
    }
}

/// All links of a node. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    dial: Arc<dyn Dial>,
    home: Home,
    addresses: RwLock<BTreeMap<u64, String>>,
    links: Mutex<BTreeMap<(u64, Lane), Arc<Link>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn close(&self) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let links = std::mem::take(&mut *links);
        for link in links.values() {
            link.close();
        }
    }
}

impl Peers {
    /// Links that introduce themselves with `credentials`, and run where this is called.
    pub fn new(credentials: Credentials, dial: Arc<dyn Dial>) -> Self {
        Peers(Arc::new(Inner {
            credentials,
            dial,
            home: Home::here(),
            addresses: RwLock::default(),
            links: Mutex::default(),
        }))
    }

    /// What this node shows in handshakes.
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Says where a node is found; the next connection goes there.
    pub fn set_address(&self, node: u64, address: &str) {
        let mut addresses = self
            .0
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if addresses.get(&node).map(String::as_str) != Some(address) {
            addresses.insert(node, address.to_owned());
        }
    }

    fn address(&self, node: u64) -> Option<String> {
        let addresses = self
            .0
            .addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.get(&node).cloned()
    }

    /// Asks a node. The question is handed over before this returns: questions on one lane leave in the
    /// order of the calls.
    pub fn call(&self, node: u64, lane: Lane, kind: u8, payload: &[u8]) -> Call {
        let (caller, call) = oneshot::channel();
        self.link(node, lane).ask(kind, payload, caller);
        Call(call)
    }

    fn link(&self, node: u64, lane: Lane) -> Arc<Link> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.get(&(node, lane)).filter(|link| !link.is_closed());
        if let Some(link) = known {
            return link.clone();
        }
        let link = Arc::new(Link::default());
        let keeper = Keeper {
            peers: Arc::downgrade(&self.0),
            node,
            lane,
            link: link.clone(),
            pause: PAUSE_MIN,
            told: None,
        };
        self.0.home.host(|| spawn(keeper.run()));
        links.insert((node, lane), link.clone());
        link
    }

    /// Asks whoever listens at `address`, over a connection of its own: for nodes not yet known by number.
    pub async fn ask_stranger(
        &self,
        address: &str,
        kind: u8,
        payload: &[u8],
        patience: Duration,
    ) -> std::io::Result<(Identified, Bytes)> {
        let asked = async {
            let mut stream = self.0.dial.dial(address).await?;
            let who = introduce(stream.as_mut(), &self.0.credentials, None, Lane::Control).await?;
            let mut frame = FrameWriter::default();
            frame.push(1, kind, payload);
            stream.write_all(&frame.finish()).await?;
            stream.flush().await?;
            let mut answer = None;
            read_frame(&mut stream, FRAME_BYTES_MAX, |message| {
                answer = Some(message.payload);
            })
            .await?;
            let answer = answer.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            Ok((who, answer))
        };
        timeout(patience, asked).await.unwrap_or_else(|_| {
            Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "no answer in time",
            ))
        })
    }

    /// Ends every link: questions under way are `Broken`.
    pub fn close(&self) {
        self.0.close();
    }
}

/// One lane to one node, as those who ask and its keeper share it.
#[derive(Default)]
struct Link {
    state: Mutex<State>,
    /// There is something to send, or the link was closed.
    stirred: Notify,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    callers: FxHashMap<u64, Caller>,
    /// Questions asked so far; the number of one is how many there were with it.
    asked: u64,
    /// Questions of those that were given to a connection.
    sent: u64,
    /// The last answer, or when answers began to be awaited.
    heard: Option<Instant>,
    /// Why nothing can be sent now.
    down: Option<Arc<str>>,
    closed: bool,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, kind: u8, payload: &[u8], caller: Caller) {
        let mut state = self.lock();
        if let Some(why) = state.refuses(payload) {
            drop(state);
            // Whoever asks holds the other end.
            let _ = caller.send(Err(CallError::NotSent(why)));
            return;
        }
        let is_first = state.outbox.is_empty();
        if state.callers.is_empty() {
            state.heard = Some(Instant::now());
        }
        state.asked += 1;
        let id = state.asked;
        state.callers.insert(id, caller);
        state.outbox.push(id, kind, payload);
        drop(state);
        if is_first {
            self.stirred.notify_one();
        }
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the link: nothing more is sent.
    fn close(&self) {
        self.lock().closed = true;
        self.go_down("this node is stopping".into());
        self.disconnect();
        self.stirred.notify_one();
    }

    /// Waits for something to send; false if the link was closed.
    async fn has_questions(&self) -> bool {
        let waits = || {
            let state = self.lock();
            !state.closed && state.outbox.is_empty()
        };
        while waits() {
            self.stirred.notified().await;
        }
        !self.is_closed()
    }

    /// A connection begins.
    fn connect(&self) {
        self.lock().heard = Some(Instant::now());
    }

    /// The next frame for the connection.
    fn take_frame(&self) -> Option<BytesMut> {
        let mut state = self.lock();
        let frame = state.outbox.take()?;
        state.sent = frame.last_id;
        Some(frame.bytes)
    }

    /// Gives out the answers of one frame.
    fn answer(&self, answers: &mut Vec<Message>) {
        let mut state = self.lock();
        state.heard = Some(Instant::now());
        let caller = |answer: Message| Some((state.callers.remove(&answer.id)?, answer.payload));
        let answered: Vec<_> = answers.drain(..).filter_map(caller).collect();
        drop(state);
        for (caller, payload) in answered {
            // A caller that no longer waits needs no answer.
            let _ = caller.send(Ok(payload));
        }
    }

    /// Whether the connection is silent though answers are awaited, or nobody has needed it for long.
    fn is_given_up(&self) -> bool {
        let state = self.lock();
        let patience = if state.callers.is_empty() {
            IDLE_MAX
        } else {
            SILENCE_MAX
        };
        state.heard.is_some_and(|heard| heard.elapsed() > patience)
    }

    /// The connection has ended: what was sent over it gets no answer.
    fn disconnect(&self) {
        let state = self.lock();
        let sent = state.sent;
        end(state, |id| id <= sent, &CallError::Broken);
    }

    /// Nothing can be sent for now: whoever waits for it, and whoever asks until [`Link::come_up`], learns why.
    fn go_down(&self, why: Arc<str>) {
        let mut state = self.lock();
        state.down = Some(why.clone());
        state.outbox = Outbox::default();
        let sent = state.sent;
        state.sent = state.asked;
        end(state, |id| id > sent, &CallError::NotSent(why));
    }

    fn come_up(&self) {
        let mut state = self.lock();
        if !state.closed {
            state.down = None;
        }
    }
}

impl State {
    /// Why a question cannot be sent, if it cannot.
    fn refuses(&self, payload: &[u8]) -> Option<Arc<str>> {
        if let Some(why) = &self.down {
            return Some(why.clone());
        }
        if !fits(payload) {
            return Some("it is longer than a frame may be".into());
        }
        let is_full = self.asked - self.sent >= QUEUE_MAX;
        is_full.then(|| "too much waits for this node".into())
    }
}

/// Tells an end to the callers whose questions are `which`.
fn end(mut state: MutexGuard<'_, State>, which: impl Fn(u64) -> bool, error: &CallError) {
    let mut ended: Vec<_> = state.callers.extract_if(|id, _| which(*id)).collect();
    drop(state);
    // In the order of the questions, so that a simulation is a function of its seed.
    ended.sort_unstable_by_key(|(id, _)| *id);
    for (_, caller) in ended {
        // As above.
        let _ = caller.send(Err(error.clone()));
    }
}

/// Keeps the connection of a link.
struct Keeper {
    peers: std::sync::Weak<Inner>,
    node: u64,
    lane: Lane,
    link: Arc<Link>,
    pause: Duration,
    /// The last failure that was logged.
    told: Option<String>,
}

/// However its keeper ends, a link ends with it.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl Keeper {
    async fn run(mut self) {
        while self.link.has_questions().await {
            match self.connect().await {
                Ok(stream) => {
                    if self.told.take().is_some() {
                        tracing::info!(node = self.node, lane = ?self.lane, "connected again");
                    }
                    self.pause = PAUSE_MIN;
                    self.converse(stream).await;
                }
                Err(error) => self.rest(&error).await,
            }
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let inner = self
            .peers
            .upgrade()
            .ok_or(std::io::ErrorKind::ConnectionAborted)?;
        let peers = Peers(inner);
        let address = peers
            .address(self.node)
            .ok_or_else(|| std::io::Error::other("its address is not known"))?;
        let connected = async {
            let mut stream = peers.0.dial.dial(&address).await?;
            introduce(
                stream.as_mut(),
                &peers.0.credentials,
                Some(self.node),
                self.lane,
            )
            .await?;
            Ok(stream)
        };
        timeout(CONNECT_TIMEOUT, connected)
            .await
            .unwrap_or_else(|_| {
                Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("{address} does not answer"),
                ))
            })
    }

    /// After a failed connection: every question ends at once until the pause is over.
    async fn rest(&mut self, error: &std::io::Error) {
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(node = self.node, lane = ?self.lane, why, "a peer cannot be reached");
            self.told = Some(why.clone());
        }
        self.link.go_down(why.into());
        sleep(self.pause + random_below(self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.link.come_up();
    }

    /// Sends questions and gives out answers until the connection ends.
    async fn converse(&self, stream: Box<dyn Stream>) {
        self.link.connect();
        let (reader, writer) = split(stream);
        tokio::select! {
            biased;
            () = read_answers(reader, &self.link) => {}
            () = self.send_questions(writer) => {}
        }
        self.link.disconnect();
    }

    async fn send_questions(&self, mut writer: WriteHalf<Box<dyn Stream>>) {
        let link = &self.link;
        let mut look = interval(SILENCE_MAX / 4);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                open = link.has_questions() => {
                    // One frame carries the questions of many groups.
                    others_first().await;
                    if !open || send_frames(link, &mut writer).await.is_err() {
                        return;
                    }
                }
                _ = look.tick() => if link.is_given_up() {
                    tracing::debug!(node = self.node, lane = ?self.lane, "closing a silent connection");
                    return;
                },
            }
        }
    }
}

async fn send_frames(link: &Link, writer: &mut WriteHalf<Box<dyn Stream>>) -> std::io::Result<()> {
    while let Some(frame) = link.take_frame() {
        writer.write_all(&frame).await?;
    }
    writer.flush().await
}

/// Gives out answers until the connection ends.
async fn read_answers(reader: ReadHalf<Box<dyn Stream>>, link: &Link) {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut answers = Vec::new();
    loop {
        let read = read_frame(&mut reader, FRAME_BYTES_MAX, |message| {
            answers.push(message);
        })
        .await;
        match read {
            Ok(true) => link.answer(&mut answers),
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "a peer's connection ended");
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
