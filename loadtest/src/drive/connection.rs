//! One connection: steps out, answers in, in order.
//!
//! Invariant: every step sent is answered once to the worker, with what came or with [`Answer::NONE`] when the connection
//! was lost; so no order is ever left without an entry in the ledger.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::pace::Turn;
use super::worker::Worker;
use crate::client::{Answer, Protocol};
use crate::failure::Failure;
use crate::workload::{Behaviour, Script, Step};

/// Bytes read at a time at first; the buffer of a connection grows with its answers.
const READ_BYTES: usize = 8 << 10;

/// Between attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// How long a target that is gone is waited for: longer than a node takes to start again.
const RECONNECT_WITHIN: Duration = Duration::from_mins(1);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a buyer that misses the answer waits for it to come.
const MISSED_WITHIN: Duration = Duration::from_secs(1);

/// A step under way.
struct Flight {
    step: Step,
    /// From when its latency counts.
    started: Instant,
    /// When it was sent.
    sent: Instant,
}

/// How a conversation ended.
enum End {
    /// There is nothing more to send.
    Over,
    /// The workload gives the connection up.
    Left,
    /// The other side, or the line, ended it; what was wrong with its last answer.
    Lost(Option<String>),
}

/// A connection of a worker.
pub(super) struct Connection<P> {
    worker: Rc<Worker>,
    target: SocketAddr,
    protocol: P,
    script: Script,
    /// Told when something is due in an open loop.
    wake: Rc<Notify>,
    /// Whether the worker knows that this connection waits.
    waits: bool,
    flights: VecDeque<Flight>,
    answers: Vec<Answer>,
    out: Vec<u8>,
    /// Bytes of `out` that were written.
    written: usize,
    input: Vec<u8>,
    /// Bytes of `input` that were read.
    filled: usize,
}

/// Connects without waiting for small packets to be gathered.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, Failure> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let connected = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    stream.map_err(|error| Failure::Connect(format!("cannot connect to {target}: {error}")))
}

impl<P: Protocol> Connection<P> {
    pub(super) fn new(worker: Rc<Worker>, target: SocketAddr, protocol: P, script: Script) -> Self {
        Self {
            worker,
            target,
            protocol,
            script,
            wake: Rc::new(Notify::new()),
            waits: false,
            flights: VecDeque::new(),
            answers: Vec::new(),
            out: Vec::new(),
            written: 0,
            input: vec![0; READ_BYTES],
            filled: 0,
        }
    }

    /// Sends and reads until the run is over; connects again when the connection is lost.
    pub(super) async fn run(mut self, mut stream: TcpStream) {
        loop {
            let end = self.converse(&mut stream).await;
            match end {
                End::Over => return,
                // No trace in the system's table of closed connections: there would be thousands.
                End::Left => drop(stream.set_zero_linger()),
                End::Lost(broken) => self.worker.on_lost(broken),
            }
            drop(stream);
            self.give_up();
            match self.reconnect().await {
                Some(again) => stream = again,
                None => return,
            }
        }
    }

    /// Connects again; `None` when there is nothing more to send, or nobody there for too long.
    async fn reconnect(&self) -> Option<TcpStream> {
        let give_up_at = Instant::now() + RECONNECT_WITHIN;
        while Instant::now() < give_up_at {
            if self.worker.is_over() || self.script.is_done(&self.worker.desk().orders) {
                return None;
            }
            if let Ok(stream) = connect(self.target).await {
                return Some(stream);
            }
            sleep(RECONNECT_PAUSE).await;
        }
        None
    }

    async fn converse(&mut self, stream: &mut TcpStream) -> End {
        let (mut read, write) = stream.split();
        let timeout = self.worker.timeout();
        let watchdog = sleep(timeout);
        tokio::pin!(watchdog);
        loop {
            let turn = self.fill();
            if self.write(&write).is_err() {
                return End::Lost(None);
            }
            if let Some(behaviour) = self.leaves() {
                self.leave(behaviour, &mut read, &write).await;
                return End::Left;
            }
            if self.flights.is_empty() && turn == Turn::Over {
                return End::Over;
            }
            let may_start = self.waits;
            let unsent = self.written < self.out.len();
            tokio::select! {
                biased;
                got = read.read(&mut self.input[self.filled..]), if !self.flights.is_empty() => {
                    match got {
                        Ok(0) | Err(_) => return End::Lost(None),
                        Ok(bytes) => self.filled += bytes,
                    }
                    if let Err(broken) = self.read_answers() {
                        return End::Lost(Some(broken));
                    }
                }
                _ = write.writable(), if unsent => {}
                () = self.wake.notified(), if may_start => self.waits = false,
                () = watchdog.as_mut() => {
                    let oldest = self.flights.front().map(|flight| flight.sent);
                    let due = oldest.unwrap_or_else(Instant::now) + timeout;
                    if due <= Instant::now() {
                        return End::Lost(None);
                    }
                    watchdog.as_mut().reset(due.into());
                }
            }
        }
    }

    /// Writes as many steps into the buffer as may start now.
    fn fill(&mut self) -> Turn {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        // One look at the clock for all: writing a request takes a fraction of a microsecond.
        let now = Instant::now();
        let mut desk = self.worker.desk();
        loop {
            // A buyer who leaves takes nobody else along more than need be.
            let full = self.flights.len() >= self.worker.pipeline() || self.leaves().is_some();
            if full {
                return Turn::Wait;
            }
            let started = match desk.pacer.turn(now) {
                Turn::Start(started) => started,
                Turn::Wait => {
                    if !self.waits {
                        self.waits = true;
                        desk.idle.push_back(self.wake.clone());
                    }
                    return Turn::Wait;
                }
                Turn::Over => return Turn::Over,
            };
            let Some(step) = self.script.next(&mut desk.orders) else {
                return Turn::Over;
            };
            desk.pacer.on_start();
            self.protocol.encode(&step, &mut self.out);
            self.flights.push_back(Flight {
                step,
                started,
                sent: now,
            });
        }
    }

    /// Writes until the buffer is empty or the socket takes no more.
    fn write(&mut self, write: &WriteHalf<'_>) -> io::Result<()> {
        while self.written < self.out.len() {
            match write.try_write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads all answers that are there.
    fn read_answers(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let mut at = 0;
        while let Some(flight) = self.flights.front() {
            self.answers.clear();
            let input = &self.input[at..self.filled];
            if input.is_empty() {
                break;
            }
            let read = self.protocol.decode(&flight.step, input, &mut self.answers);
            match read {
                Ok(Some(bytes)) => at += bytes,
                Ok(None) => break,
                Err(broken) => return Err(broken.to_string()),
            }
            let flight = self.flights.pop_front().expect("it is the front");
            self.on_answers(&flight, Some(now));
        }
        if self.flights.is_empty() && at < self.filled {
            return Err("an answer that nobody asked for".to_owned());
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        Ok(())
    }

    /// Tells the worker and the script what a step was answered; `None` for a step that will not be.
    fn on_answers(&mut self, flight: &Flight, now: Option<Instant>) {
        let ending = self
            .worker
            .on_answers(&flight.step, flight.started, now, &self.answers);
        self.script.on_end(&flight.step, ending);
    }

    /// The behaviour of the buyer in flight that is about to leave.
    fn leaves(&self) -> Option<Behaviour> {
        let Step::Grab { order } = self.flights.back()?.step else {
            return None;
        };
        let behaviour = self.worker.workload().behaviour(order);
        let leaves = matches!(behaviour, Behaviour::Leaves | Behaviour::MissesTheAnswer);
        leaves.then_some(behaviour)
    }

    async fn leave(&mut self, how: Behaviour, read: &mut ReadHalf<'_>, write: &WriteHalf<'_>) {
        while self.written < self.out.len() {
            let can = write.writable().await;
            if can.and_then(|()| self.write(write)).is_err() {
                return;
            }
        }
        if how == Behaviour::MissesTheAnswer {
            drop(tokio::time::timeout(MISSED_WITHIN, read.readable()).await);
        }
    }

    /// What is under way on a lost connection will not be answered.
    fn give_up(&mut self) {
        while let Some(flight) = self.flights.pop_front() {
            self.answers.clear();
            let none = std::iter::repeat_n(Answer::NONE, flight.step.answers());
            self.answers.extend(none);
            self.on_answers(&flight, None);
        }
        self.out.clear();
        self.written = 0;
        self.filled = 0;
    }
}
