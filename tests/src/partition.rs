//! A network that can be broken: a TCP proxy for the way between two nodes, pulled apart and put together by a test.
//!
//! To stand between nodes, a proxy's address is announced as a node's peer address, and its target is where that node listens.
//! A proxy whose target is on a [`Host`] is the door to that host for clients outside.
//!
//! Invariant: what a connection delivers is a beginning of what was sent, without holes, as with any TCP. So a connection that
//! lost bytes in a cut never delivers any more: it stays open and silent while the cut lasts, and is closed by [`PeerProxy::heal`].

mod connection;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Host, free_port, wait_until};
use connection::Connection;

/// How long the proxy tries to listen on a port, for the first time or after having refused connections.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

const LOCK: &str = "no holder of this lock panics";

/// A direction through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to the target.
    ToTarget,
    /// From the target to whoever connected.
    FromTarget,
}

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// They are lost, and nobody is told.
    Cut,
    /// They wait, as bytes do that TCP sends again and again.
    Stalled,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    to_target: Passage,
    from_target: Passage,
    delay: Duration,
    refusing: bool,
    ended: bool,
}

impl Rules {
    fn passage(&self, direction: Direction) -> Passage {
        match direction {
            Direction::ToTarget => self.to_target,
            Direction::FromTarget => self.from_target,
        }
    }

    fn cuts(&self) -> bool {
        [self.to_target, self.from_target].contains(&Passage::Cut)
    }
}

/// A proxy in front of one address. Dropping it closes its port and all its connections.
#[derive(Debug)]
pub struct PeerProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Where the target is, if not on this machine's own network.
    host: Option<Host>,
    rules: Mutex<Rules>,
    /// The rules have changed.
    changed: Condvar,
    connections: Mutex<Vec<Arc<Connection>>>,
    accepted: AtomicUsize,
    /// The listening socket is closed.
    refuses: AtomicBool,
}

impl PeerProxy {
    /// A proxy to `target` on a free loopback port; everything passes until told otherwise. Nobody needs to listen at `target` yet.
    pub fn start(target: SocketAddr) -> Self {
        Self::start_with(target, None)
    }

    /// As [`Self::start`], to a `target` as it is seen on `host`.
    pub fn start_into(host: Host, target: SocketAddr) -> Self {
        Self::start_with(target, Some(host))
    }

    fn start_with(target: SocketAddr, host: Option<Host>) -> Self {
        let listener = wait_until(LISTENS_WITHIN, "the proxy listens", || {
            // Not a port that the system gives to outgoing connections: a refused one could then meet itself.
            let port = free_port();
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.to_string())
        });
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target,
            host,
            rules: Mutex::new(Rules {
                to_target: Passage::Open,
                from_target: Passage::Open,
                delay: Duration::ZERO,
                refusing: false,
                ended: false,
            }),
            changed: Condvar::new(),
            connections: Mutex::new(Vec::new()),
            accepted: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        let listener = std::thread::spawn(move || run_listener(listener, address, &listening));
        Self {
            address,
            shared,
            listener: Some(listener),
        }
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far: those to the target, and those that a cut leads nowhere.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes are lost in both directions from now on, but for those just being handed over. Nobody is told: connections stay
    /// open, and new ones are accepted and lead nowhere.
    pub fn cut(&self) {
        self.set(|rules| (rules.to_target, rules.from_target) = (Passage::Cut, Passage::Cut));
    }

    /// Only bytes in this direction still pass. New connections lead nowhere: making one takes both directions.
    pub fn one_way(&self, open: Direction) {
        let passage = |direction| {
            if direction == open {
                Passage::Open
            } else {
                Passage::Cut
            }
        };
        self.set(|rules| {
            rules.to_target = passage(Direction::ToTarget);
            rules.from_target = passage(Direction::FromTarget);
        });
    }

    /// Bytes wait in both directions and are delivered after [`Self::heal`], however late: a cut too short for TCP to give up.
    pub fn stall(&self) {
        self.set(|rules| {
            (rules.to_target, rules.from_target) = (Passage::Stalled, Passage::Stalled);
        });
    }

    /// Everything passes again. Connections that lost bytes are closed, so that their ends connect again.
    pub fn heal(&self) {
        self.set(|rules| (rules.to_target, rules.from_target) = (Passage::Open, Passage::Open));
        for connection in self.shared.connections().iter() {
            if connection.has_lost_bytes() {
                connection.close();
            }
        }
    }

    /// Everything arrives so much later, in the order sent: on connections that are there and on new ones. What is already
    /// on its way is not touched. Zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.set(|rules| rules.delay = delay);
    }

    /// Whether new connections are refused by a closed port, cut or not, instead of accepted; established ones are not touched.
    /// It is so when this returns.
    #[track_caller]
    pub fn refuse(&self, refusing: bool) {
        self.set(|rules| rules.refusing = refusing);
        if refusing {
            // The listener is most likely waiting for a connection: this is one.
            drop(TcpStream::connect(self.address));
        }
        wait_until(LISTENS_WITHIN, "the proxy's port changes", || {
            let refuses = self.shared.refuses.load(Ordering::SeqCst);
            (refuses == refusing)
                .then_some(())
                .ok_or_else(|| format!("refusing: {refuses}"))
        });
    }

    fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.shared.rules());
        self.shared.changed.notify_all();
    }
}

impl Drop for PeerProxy {
    fn drop(&mut self) {
        self.set(|rules| rules.ended = true);
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            // A panic there was reported by its own thread; here it would hide the test's.
            drop(listener.join());
        }
        for connection in self.shared.connections().drain(..) {
            connection.end();
        }
    }
}

impl Shared {
    fn dial(&self) -> std::io::Result<TcpStream> {
        match &self.host {
            Some(host) => host.connect(self.target),
            None => TcpStream::connect(self.target),
        }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect(LOCK)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().expect(LOCK)
    }

    fn wait_while(&self, condition: impl FnMut(&mut Rules) -> bool) -> MutexGuard<'_, Rules> {
        let rules = self.changed.wait_while(self.rules(), condition);
        rules.expect(LOCK)
    }

    /// Notes that bytes have arrived in this direction, which are lost if it is cut, and gives the present delay.
    fn arrival(&self, connection: &Connection, direction: Direction) -> Duration {
        let rules = self.rules();
        connection.lose_in_cut(&rules, direction);
        rules.delay
    }

    /// Whether bytes may be handed over now, after having waited for a stall to end. If not they are lost, and with them all
    /// that come after them.
    fn passes(&self, connection: &Connection, direction: Direction) -> bool {
        let rules =
            self.wait_while(|rules| rules.passage(direction) == Passage::Stalled && !rules.ended);
        connection.lose_in_cut(&rules, direction);
        !connection.has_lost_bytes_in(direction) && !rules.ended
    }
}

/// Accepts connections, or refuses them by not listening, until the proxy ends.
fn run_listener(listener: TcpListener, address: SocketAddr, shared: &Arc<Shared>) {
    let mut listening = Some(listener);
    loop {
        let rules = *shared.rules();
        if rules.ended {
            return;
        }
        if rules.refusing {
            listening = None;
            shared.refuses.store(true, Ordering::SeqCst);
            drop(shared.wait_while(|rules| rules.refusing && !rules.ended));
            continue;
        }
        let listener = listening.get_or_insert_with(|| {
            wait_until(LISTENS_WITHIN, "the proxy listens again", || {
                TcpListener::bind(address).map_err(|error| error.to_string())
            })
        });
        shared.refuses.store(false, Ordering::SeqCst);
        match listener.accept() {
            Ok((near, _)) => connect(near, shared),
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => panic!("accepting a connection: {error}"),
        }
    }
}

/// Connects a newcomer with the target; without one, it is hung up on.
fn connect(near: TcpStream, shared: &Arc<Shared>) {
    let rules = *shared.rules();
    if rules.ended || rules.refusing {
        return;
    }
    let far = if rules.cuts() {
        None
    } else {
        match shared.dial() {
            Ok(far) => Some(far),
            Err(_) => return,
        }
    };
    let connection = Connection::start(near, far, shared);
    let mut connections = shared.connections();
    connections.retain(|connection| !connection.is_over());
    connections.push(Arc::clone(&connection));
    drop(connections);
    // If the cut was healed meanwhile, nobody else will close it.
    if connection.leads_nowhere() && !shared.rules().cuts() {
        connection.close();
    }
    shared.accepted.fetch_add(1, Ordering::SeqCst);
}
