//! Driving a workload: workers with their connections, from one start to one end.
//!
//! Invariant: the clock starts when every connection is there, so that connecting is never measured.

mod connection;
mod pace;
mod worker;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

pub use pace::Pace;

use connection::{Connection, connect};
use pace::Pacer;
use worker::{Desk, Worker};

use crate::client::Protocol;
use crate::failure::Failure;
use crate::ledger::{Ledger, Stripe};
use crate::record::{Record, Recorder, Second, Seconds, Window};
use crate::workload::{Orders, Script, Workload};

/// How often whoever watches is told.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// From the last connection to the first request: every worker must have heard of it.
const LEAD: Duration = Duration::from_millis(20);

/// How a workload is driven.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is asked for.
    pub workload: Arc<Workload>,
    /// Where; connections take turns over them.
    pub targets: Vec<SocketAddr>,
    /// Connections, over all targets and workers.
    pub connections: usize,
    /// Requests under way on one connection, at most.
    pub pipeline: usize,
    /// How requests follow each other.
    pub pace: Pace,
    /// Threads that send.
    pub workers: usize,
    /// Before anything is measured.
    pub warm_up: Duration,
    /// When it ends.
    pub limit: Limit,
    /// How long an answer may take before its connection is given up.
    pub timeout: Duration,
    /// Set to end the run early.
    pub stop: Arc<AtomicBool>,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After this time, the warm-up not counted.
    Duration(Duration),
    /// After this many orders.
    Orders(u64),
}

/// What a run brought.
#[derive(Debug)]
pub struct Driven {
    /// What is known of every order.
    pub ledger: Ledger,
    /// The figures.
    pub record: Record,
    /// The same by the second.
    pub seconds: Seconds,
    /// The length of the measured window.
    pub measured: Duration,
}

/// What the caller learns while a run goes on.
pub trait Watch {
    /// The measured window begins at `from`.
    fn on_start(&mut self, from: Instant);
    /// So far this was measured.
    fn on_seconds(&mut self, seconds: &Seconds);
}

/// Drives the plan; `protocol` makes what speaks to a target.
///
/// # Errors
/// No connection at the start, or this machine refused a thread or a timer.
pub fn drive<P: Protocol + 'static>(
    plan: &Plan,
    protocol: &(impl Fn(SocketAddr) -> P + Sync),
    watch: &mut impl Watch,
) -> Result<Driven, Failure> {
    let start = OnceLock::new();
    // The workers and this thread: once when all are connected, once when the start is known.
    let barrier = Barrier::new(plan.workers + 1);
    let (past, seconds) = channel();
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..plan.workers {
            let share = Share {
                plan,
                number,
                start: &start,
                barrier: &barrier,
                past: past.clone(),
            };
            let run = move || share.run(protocol);
            let named = thread::Builder::new().name(format!("load-{number}"));
            let handle = named.spawn_scoped(scope, run);
            workers.push(handle.expect("this machine allows a few threads more"));
        }
        drop(past);
        barrier.wait();
        let begins = Instant::now() + LEAD;
        start.set(begins).expect("it is set once");
        let from = begins + plan.warm_up;
        barrier.wait();
        watch.on_start(from);
        let mut all = Seconds::default();
        loop {
            match seconds.recv_timeout(TOLD_EVERY) {
                Ok(second) => all.add(second),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            watch.on_seconds(&all);
        }
        let mut record: Option<Record> = None;
        let mut stripes = Vec::new();
        for worker in workers {
            let (stripe, figures) = worker.join().expect("a worker does not panic")?;
            stripes.push(stripe);
            match &mut record {
                Some(record) => record.merge(figures),
                None => record = Some(figures),
            }
        }
        let record = record.expect("there is a worker");
        let measured = match plan.limit {
            // Shorter only if it was ended early. Time without answers counts, too.
            Limit::Duration(duration) => duration.min(from.elapsed()),
            Limit::Orders(_) => record.last.unwrap_or(from) - from,
        };
        Ok(Driven {
            ledger: Ledger::new(stripes),
            record,
            seconds: all,
            measured,
        })
    })
}

/// What one worker is given.
struct Share<'a> {
    plan: &'a Plan,
    number: usize,
    start: &'a OnceLock<Instant>,
    barrier: &'a Barrier,
    past: Sender<Second>,
}

impl Share<'_> {
    fn run<P: Protocol + 'static>(
        self,
        protocol: &impl Fn(SocketAddr) -> P,
    ) -> Result<(Stripe, Record), Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Failure::Server(format!(
                "this machine refused a worker its runtime: {error}"
            ))
        });
        let local = LocalSet::new();
        let streams = runtime.and_then(|runtime| {
            let streams = local.block_on(&runtime, self.connect_all())?;
            Ok((runtime, streams))
        });
        // Whoever could not connect still meets the others, or they would wait for ever.
        self.barrier.wait();
        self.barrier.wait();
        let (runtime, streams) = streams?;
        let begins = *self.start.get().expect("it is set between the barriers");
        local.block_on(&runtime, self.drive(streams, begins, protocol))
    }

    async fn connect_all(&self) -> Result<Vec<(usize, SocketAddr, TcpStream)>, Failure> {
        let mut streams = Vec::new();
        for number in (self.number..self.plan.connections).step_by(self.plan.workers) {
            let target = self.plan.targets[number % self.plan.targets.len()];
            streams.push((number, target, connect(target).await?));
        }
        Ok(streams)
    }

    async fn drive<P: Protocol + 'static>(
        self,
        streams: Vec<(usize, SocketAddr, TcpStream)>,
        begins: Instant,
        protocol: &impl Fn(SocketAddr) -> P,
    ) -> Result<(Stripe, Record), Failure> {
        let plan = self.plan;
        let (number, workers) = (self.number as u64, plan.workers as u64);
        let from = begins + plan.warm_up;
        let (until, orders) = match plan.limit {
            Limit::Duration(duration) => (Some(from + duration), u64::MAX),
            Limit::Orders(orders) => {
                let mine = orders / workers + u64::from(number < orders % workers);
                (None, mine)
            }
        };
        tokio::time::sleep_until(begins.into()).await;
        let desk = Desk {
            orders: Orders::new(number, workers, orders),
            recorder: Recorder::new(Window { from, until }, self.past),
            pacer: Pacer::new(plan.pace, number, workers, begins, until),
            idle: VecDeque::new(),
        };
        let worker = Rc::new(Worker::new(
            desk,
            plan.workload.clone(),
            plan.pipeline,
            plan.timeout,
            until,
            plan.stop.clone(),
        ));
        let mut connections = Vec::new();
        for (number, target, stream) in streams {
            let script = Script::new(plan.workload.clone(), number as u64);
            let connection = Connection::new(worker.clone(), target, protocol(target), script);
            connections.push(tokio::task::spawn_local(connection.run(stream)));
        }
        let clock = matches!(plan.pace, Pace::Open { .. }).then(|| {
            let worker = worker.clone();
            tokio::task::spawn_local(async move { worker.run_clock().await })
        });
        for connection in connections {
            connection.await.expect("a connection does not panic");
        }
        if let Some(clock) = clock {
            clock.abort();
            if let Ok(Err(error)) = clock.await {
                let message = format!("this machine refused a timer: {error}");
                return Err(Failure::Server(message));
            }
        }
        let worker = Rc::into_inner(worker).expect("its connections have ended");
        let desk = worker.into_desk();
        Ok((desk.orders.into_stripe(), desk.recorder.finish()))
    }
}
