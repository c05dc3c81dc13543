//! One connection through the proxy: a thread that reads and one that writes for each direction.
//!
//! Invariant: in each direction bytes are handed over in the order read, until the first is lost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Direction, LOCK, Passage, Rules, Shared};

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Chunks that may be on their way in one direction; beyond them the sender is no longer read from, and feels it.
const CHUNKS_ON_THE_WAY_MAX: usize = 256;

#[derive(Debug)]
pub struct Connection {
    near: TcpStream,
    /// None if the connection was made during a cut, and therefore leads nowhere.
    far: Option<TcpStream>,
    /// Bytes to the target were lost, or from it. Set with the rules locked.
    broken: [AtomicBool; 2],
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Connection {
    /// Moves bytes between the two ends from now on; without a far end, what the near one sends is lost.
    pub fn start(near: TcpStream, far: Option<TcpStream>, shared: &Arc<Shared>) -> Arc<Self> {
        for stream in [Some(&near), far.as_ref()].into_iter().flatten() {
            stream.set_nodelay(true).expect("a TCP option");
        }
        let connection = Arc::new(Self {
            broken: [far.is_none(), far.is_none()].map(AtomicBool::new),
            near,
            far,
            threads: Mutex::new(Vec::new()),
        });
        let mut threads = pump(&connection, Direction::ToTarget, shared);
        threads.extend(pump(&connection, Direction::FromTarget, shared));
        *connection.threads.lock().expect(LOCK) = threads;
        connection
    }

    /// It was made during a cut.
    pub fn leads_nowhere(&self) -> bool {
        self.far.is_none()
    }

    /// Bytes were lost in some direction.
    pub fn has_lost_bytes(&self) -> bool {
        self.broken.iter().any(|lost| lost.load(Ordering::SeqCst))
    }

    /// Bytes were lost in this direction.
    pub fn has_lost_bytes_in(&self, direction: Direction) -> bool {
        self.broken(direction).load(Ordering::SeqCst)
    }

    fn broken(&self, direction: Direction) -> &AtomicBool {
        let [to_target, from_target] = &self.broken;
        match direction {
            Direction::ToTarget => to_target,
            Direction::FromTarget => from_target,
        }
    }

    /// To be called when bytes are at hand, with the rules locked.
    pub fn lose_in_cut(&self, rules: &Rules, direction: Direction) {
        if rules.passage(direction) == Passage::Cut {
            self.broken(direction).store(true, Ordering::SeqCst);
        }
    }

    /// Closes both ends. Their threads notice by themselves.
    pub fn close(&self) {
        for stream in [Some(&self.near), self.far.as_ref()].into_iter().flatten() {
            // It may be closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Closes both ends and waits for their threads.
    pub fn end(&self) {
        self.close();
        for thread in self.threads.lock().expect(LOCK).drain(..) {
            drop(thread.join());
        }
    }

    /// Both ends have ended.
    pub fn is_over(&self) -> bool {
        let threads = self.threads.lock().expect(LOCK);
        threads.iter().all(JoinHandle::is_finished)
    }
}

/// What is on its way, and when it is to arrive. No bytes: the sender has said that there will be no more.
type OnTheWay = (Instant, Vec<u8>);

/// Starts what moves bytes in one direction: a thread that reads and one that writes, so that a delay is no throttle.
fn pump(
    connection: &Arc<Connection>,
    direction: Direction,
    shared: &Arc<Shared>,
) -> Vec<JoinHandle<()>> {
    let far = connection.far.as_ref();
    let (from, to) = match direction {
        Direction::ToTarget => (Some(&connection.near), far),
        Direction::FromTarget => (far, Some(&connection.near)),
    };
    let Some(from) = from.map(duplicate) else {
        return Vec::new();
    };
    let to = to.map(duplicate);
    let (sender, receiver) = sync_channel(CHUNKS_ON_THE_WAY_MAX);
    let (on_read, on_write) = (Arc::clone(connection), Arc::clone(connection));
    let (to_read, to_write) = (Arc::clone(shared), Arc::clone(shared));
    let reader = move || run_reader(from, &sender, &on_read, direction, &to_read);
    let writer = move || run_writer(to.as_ref(), &receiver, &on_write, direction, &to_write);
    vec![std::thread::spawn(reader), std::thread::spawn(writer)]
}

fn duplicate(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a file descriptor is left")
}

fn run_reader(
    mut from: TcpStream,
    sender: &SyncSender<OnTheWay>,
    connection: &Connection,
    direction: Direction,
    shared: &Shared,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        // An end that is torn down says no more than one that has ended.
        let count = from.read(&mut chunk).unwrap_or(0);
        let due = Instant::now() + shared.arrival(connection, direction);
        let sent = sender.send((due, chunk[..count].to_vec()));
        if sent.is_err() || count == 0 {
            return;
        }
    }
}

fn run_writer(
    to: Option<&TcpStream>,
    receiver: &Receiver<OnTheWay>,
    connection: &Connection,
    direction: Direction,
    shared: &Shared,
) {
    for (due, bytes) in receiver {
        let rules = shared.rules();
        let left = due.saturating_duration_since(Instant::now());
        let waited = shared
            .changed
            .wait_timeout_while(rules, left, |rules| !rules.ended);
        drop(waited.expect(LOCK));

        // What is lost is still taken from the sender, for whom nothing has changed.
        if !shared.passes(connection, direction) {
            continue;
        }
        let Some(mut to) = to else {
            continue;
        };
        let done = if bytes.is_empty() {
            to.shutdown(Shutdown::Write)
        } else {
            to.write_all(&bytes)
        };
        if done.is_err() {
            connection.close();
            return;
        }
    }
}
