//! The simulated network: connections whose frames are late, lost, doubled and reordered, and links that are cut.
//!
//! It is worse than TCP, which never loses a frame in the middle: what holds here holds there. One thing it spares: what clients ask
//! on its way to a leader comes once. A grab that came twice could be refused the first time and, when units came back, granted the second.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qiang_raft::Node;
use qiang_raft::peer::{BoxFuture, Dial, Lane, Stream};
use qiang_raft::world::{Life, Random};
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that a connection holds on either side.
const BUFFER_BYTES: usize = 1 << 20;

/// How often a cut link is looked at by a connection that has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How well frames travel.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// Shortest and longest delay, in microseconds.
    pub delay_us: (u64, u64),
    /// Of a million frames, so many are lost,
    pub lost_ppm: u32,
    /// so many come twice,
    pub doubled_ppm: u32,
    /// and so many overtake others.
    pub reordered_ppm: u32,
}

impl Quality {
    /// A network that does its best.
    pub const GOOD: Quality = Quality {
        delay_us: (100, 1_500),
        lost_ppm: 0,
        doubled_ppm: 0,
        reordered_ppm: 0,
    };

    /// A network that does not.
    pub const BAD: Quality = Quality {
        delay_us: (100, 30_000),
        lost_ppm: 10_000,
        doubled_ppm: 10_000,
        reordered_ppm: 20_000,
    };

    fn delay(self) -> Duration {
        Duration::from_micros(Random.random_range(self.delay_us.0..=self.delay_us.1))
    }
}

fn chance(ppm: u32) -> bool {
    Random.random_range(0..1_000_000) < ppm
}

/// All links. Clones share them.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

struct State {
    quality: Quality,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(u64, u64)>,
    /// Directions in which everything comes so much later.
    held_up: BTreeMap<(u64, u64), Duration>,
    listening: BTreeMap<u64, (Life, Node)>,
}

impl Net {
    pub fn new() -> Self {
        Net(Arc::new(Mutex::new(State {
            quality: Quality::GOOD,
            cuts: BTreeSet::new(),
            held_up: BTreeMap::new(),
            listening: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of a node.
    pub fn address(node: u64) -> String {
        format!("node-{node}:7500")
    }

    pub fn set_quality(&self, quality: Quality) {
        self.lock().quality = quality;
    }

    pub fn quality(&self) -> Quality {
        self.lock().quality
    }

    /// Nothing more arrives at `to` from `from`.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().cuts.insert((from, to));
    }

    /// From now on everything arrives at `to` from `from` so much later.
    pub fn hold_up(&self, from: u64, to: u64, by: Duration) {
        self.lock().held_up.insert((from, to), by);
    }

    fn held_up(&self, from: u64, to: u64) -> Duration {
        let state = self.lock();
        state.held_up.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Every link works again; whether any did not.
    pub fn heal(&self) -> bool {
        !std::mem::take(&mut self.lock().cuts).is_empty()
    }

    pub fn listen(&self, id: u64, life: Life, node: Node) {
        self.lock().listening.insert(id, (life, node));
    }

    pub fn hang_up(&self, id: u64) {
        self.lock().listening.remove(&id);
    }

    /// The way out of a node.
    pub fn dialer(&self, from: u64) -> Arc<dyn Dial> {
        Arc::new(Dialer {
            net: self.clone(),
            from,
        })
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.lock().cuts.contains(&(from, to))
    }
}

struct Dialer {
    net: Net,
    from: u64,
}

impl Dial for Dialer {
    fn dial(&self, address: &str, lane: Lane) -> BoxFuture<io::Result<Box<dyn Stream>>> {
        let (net, from) = (self.net.clone(), self.from);
        let number = address
            .strip_prefix("node-")
            .and_then(|rest| rest.split(':').next());
        let to: Option<u64> = number.and_then(|number| number.parse().ok());
        Box::pin(async move {
            let to = to.ok_or_else(|| io::Error::other("no such address"))?;
            sleep(net.quality().delay() * 2).await;
            if net.is_cut(from, to) || net.is_cut(to, from) {
                return std::future::pending().await;
            }
            let listening = net.lock().listening.get(&to).cloned();
            let Some((life, node)) = listening.filter(|(life, _)| life.is_alive()) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (client, near) = duplex(BUFFER_BYTES);
            let (far, server) = duplex(BUFFER_BYTES);
            let (near_read, near_write) = split(near);
            let (far_read, far_write) = split(far);
            // Outside any process's life: the network outlives them.
            let doubles = lane != Lane::Forward;
            let questions = Way { from, to, doubles };
            let answers = Way {
                from: to,
                to: from,
                doubles: true,
            };
            tokio::spawn(carry(net.clone(), questions, near_read, far_write));
            tokio::spawn(carry(net, answers, far_read, near_write));
            let answers = node.peer_answers();
            life.spawn(node.serve_peer(Box::new(server), answers));
            Ok(Box::new(client) as Box<dyn Stream>)
        })
    }
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Way {
    from: u64,
    to: u64,
    /// Whether a frame may come twice.
    doubles: bool,
}

/// Carries frames one way until the sending side ends.
async fn carry<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static>(
    net: Net,
    way: Way,
    mut read: ReadHalf<T>,
    write: WriteHalf<T>,
) {
    let (sender, frames) = mpsc::unbounded_channel();
    tokio::spawn(deliver(net.clone(), way, frames, write));
    let mut last = Instant::now();
    while let Ok(frame) = read_frame(&mut read).await {
        let quality = net.quality();
        if chance(quality.lost_ppm) {
            continue;
        }
        let is_doubled = chance(quality.doubled_ppm) && way.doubles;
        let copies = if is_doubled { 2 } else { 1 };
        for _ in 0..copies {
            let mut at = Instant::now() + quality.delay() + net.held_up(way.from, way.to);
            if !chance(quality.reordered_ppm) {
                at = at.max(last);
                last = at;
            }
            if sender.send((at, frame.clone())).is_err() {
                return;
            }
        }
    }
}

async fn read_frame(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 8];
    read.read_exact(&mut frame).await?;
    let length = u32::from_le_bytes(frame[0..4].try_into().expect("four bytes")) as usize;
    frame.resize(8 + length, 0);
    read.read_exact(&mut frame[8..]).await?;
    Ok(frame)
}

async fn deliver<T: tokio::io::AsyncWrite>(
    net: Net,
    Way { from, to, .. }: Way,
    mut frames: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut write: WriteHalf<T>,
) {
    let mut under_way: BTreeMap<(Instant, u64), Vec<u8>> = BTreeMap::new();
    let mut number = 0;
    let mut open = true;
    while open || !under_way.is_empty() {
        let next = under_way.keys().next().map(|(at, _)| *at);
        tokio::select! {
            biased;
            frame = frames.recv(), if open => match frame {
                Some((at, frame)) => {
                    number += 1;
                    under_way.insert((at, number), frame);
                }
                None => open = false,
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some((_, frame)) = under_way.pop_first() else { continue };
                if !net.is_cut(from, to) && write.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    }
    // The end of a connection does not come through a cut link either.
    while net.is_cut(from, to) {
        sleep(LOOK_EVERY).await;
    }
    // The other side may be gone, too.
    let _ = write.shutdown().await;
}
