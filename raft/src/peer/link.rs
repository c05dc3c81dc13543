//! Asking peers. A link is one lane to one node: a bounded queue, and a task that keeps a connection
//! while there is something to say.
//!
//! Invariant: a connection that fails is tried again only after a pause that doubles; meanwhile every
//! question ends at once with `NotSent`, so nobody spins on a node that is down.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fxhash::FxHashMap;
use tokio::io::{AsyncWriteExt, BufReader, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::frame::{FRAME_BYTES_MAX, FrameWriter, Message, fits, read_frame};
use super::hello::{Credentials, Identified, introduce};
use super::{Dial, Lane, Stream};
use crate::world::{Home, others_first, random_below, spawn};

/// Questions that may wait for one lane's connection; past it the answer is `NotSent` at once.
const QUEUE_MAX: usize = 16_384;

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

struct Question {
    kind: u8,
    payload: Bytes,
    answer: oneshot::Sender<Result<Bytes, CallError>>,
}

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
    links: Mutex<BTreeMap<(u64, Lane), mpsc::Sender<Question>>>,
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
    pub fn call(&self, node: u64, lane: Lane, kind: u8, payload: Bytes) -> Call {
        let (answer, call) = oneshot::channel();
        let question = Question {
            kind,
            payload,
            answer,
        };
        let refused = if fits(&question.payload) {
            match self.link(node, lane).try_send(question) {
                Ok(()) => None,
                Err(mpsc::error::TrySendError::Full(question)) => {
                    Some((question, "too much waits for this node"))
                }
                Err(mpsc::error::TrySendError::Closed(question)) => {
                    Some((question, "this node is stopping"))
                }
            }
        } else {
            Some((question, "it is longer than a frame may be"))
        };
        if let Some((question, why)) = refused {
            // The caller holds the other end.
            let _ = question.answer.send(Err(CallError::NotSent(why.into())));
        }
        Call(call)
    }

    fn link(&self, node: u64, lane: Lane) -> mpsc::Sender<Question> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.get(&(node, lane)).filter(|link| !link.is_closed());
        if let Some(link) = known {
            return link.clone();
        }
        let (sender, questions) = mpsc::channel(QUEUE_MAX);
        let link = Link {
            peers: Arc::downgrade(&self.0),
            node,
            lane,
            questions,
            pause: PAUSE_MIN,
            told: None,
        };
        self.0.home.host(|| spawn(link.run()));
        links.insert((node, lane), sender.clone());
        sender
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
        self.0
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// One lane to one node.
struct Link {
    peers: std::sync::Weak<Inner>,
    node: u64,
    lane: Lane,
    questions: mpsc::Receiver<Question>,
    pause: Duration,
    /// The last failure that was logged.
    told: Option<String>,
}

impl Link {
    async fn run(mut self) {
        while let Some(first) = self.questions.recv().await {
            match self.connect().await {
                Ok(stream) => {
                    if self.told.take().is_some() {
                        tracing::info!(node = self.node, lane = ?self.lane, "connected again");
                    }
                    self.pause = PAUSE_MIN;
                    self.converse(stream, first).await;
                }
                Err(error) => self.rest(first, &error).await,
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

    /// After a failed connection: ends every question at once until the pause is over.
    async fn rest(&mut self, first: Question, error: &std::io::Error) {
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(node = self.node, lane = ?self.lane, why, "a peer cannot be reached");
            self.told = Some(why.clone());
        }
        let why: Arc<str> = why.into();
        let refuse = |question: Question| {
            // A caller that no longer waits needs no answer.
            let _ = question.answer.send(Err(CallError::NotSent(why.clone())));
        };
        refuse(first);
        let until = Instant::now() + self.pause + random_below(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        while let Ok(Some(question)) = tokio::time::timeout_at(until, self.questions.recv()).await {
            refuse(question);
        }
    }

    /// Sends questions and gives out answers until the connection ends.
    async fn converse(&mut self, stream: Box<dyn Stream>, first: Question) {
        let (reader, mut writer) = split(stream);
        let awaited = Arc::new(Awaited::default());
        let mut reading = spawn(read_answers(reader, awaited.clone()));
        let mut frame = FrameWriter::default();
        let mut id = 0;
        let mut next = Some(first);
        let mut look = tokio::time::interval(SILENCE_MAX / 4);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(question) = next.take() {
                // One frame carries the questions of many groups.
                others_first().await;
                let mut question = Some(question);
                while let Some(Question {
                    kind,
                    payload,
                    answer,
                }) = question
                {
                    id += 1;
                    if !awaited.add(id, answer) {
                        break;
                    }
                    frame.push(id, kind, &payload);
                    question = if frame.is_full() {
                        None
                    } else {
                        self.questions.try_recv().ok()
                    };
                }
                // The connection ended before the first of them was noted.
                if frame.is_empty() {
                    break;
                }
                if writer.write_all(&frame.finish()).await.is_err() || writer.flush().await.is_err()
                {
                    break;
                }
            }
            tokio::select! {
                biased;
                _ = &mut reading => break,
                question = self.questions.recv() => match question {
                    Some(question) => next = Some(question),
                    None => break,
                },
                _ = look.tick() => if awaited.is_given_up() {
                    tracing::debug!(node = self.node, lane = ?self.lane, "closing a silent connection");
                    break;
                },
            }
        }
        reading.abort();
        awaited.end();
    }
}

/// Questions sent and not answered.
#[derive(Default)]
struct Awaited(Mutex<Waiting>);

struct Waiting {
    callers: FxHashMap<u64, oneshot::Sender<Result<Bytes, CallError>>>,
    /// The last answer, or the last question asked when none was awaited.
    heard: Instant,
    ended: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting {
            callers: FxHashMap::default(),
            heard: Instant::now(),
            ended: false,
        }
    }
}

impl Awaited {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a question; false if the connection has ended, and the caller was told.
    fn add(&self, id: u64, caller: oneshot::Sender<Result<Bytes, CallError>>) -> bool {
        let mut waiting = self.lock();
        if waiting.ended {
            // It was not written yet. A caller that no longer waits needs no answer.
            let _ = caller.send(Err(CallError::NotSent("the connection ended".into())));
            return false;
        }
        if waiting.callers.is_empty() {
            waiting.heard = Instant::now();
        }
        waiting.callers.insert(id, caller);
        true
    }

    fn answer(&self, message: Message) {
        let caller = {
            let mut waiting = self.lock();
            waiting.heard = Instant::now();
            waiting.callers.remove(&message.id)
        };
        if let Some(caller) = caller {
            // As above.
            let _ = caller.send(Ok(message.payload));
        }
    }

    /// Whether the connection is silent though answers are awaited, or nobody has needed it for long.
    fn is_given_up(&self) -> bool {
        let waiting = self.lock();
        let patience = if waiting.callers.is_empty() {
            IDLE_MAX
        } else {
            SILENCE_MAX
        };
        waiting.heard.elapsed() > patience
    }

    fn end(&self) {
        let callers = {
            let mut waiting = self.lock();
            waiting.ended = true;
            std::mem::take(&mut waiting.callers)
        };
        let mut callers: Vec<_> = callers.into_iter().collect();
        // In the order of the questions, so that a simulation is a function of its seed.
        callers.sort_unstable_by_key(|(id, _)| *id);
        for (_, caller) in callers {
            // As above.
            let _ = caller.send(Err(CallError::Broken));
        }
    }
}

async fn read_answers(reader: tokio::io::ReadHalf<Box<dyn Stream>>, awaited: Arc<Awaited>) {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    loop {
        let read = read_frame(&mut reader, FRAME_BYTES_MAX, |message| {
            awaited.answer(message);
        })
        .await;
        match read {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(%error, "a peer's connection ended");
                break;
            }
        }
    }
    awaited.end();
}
