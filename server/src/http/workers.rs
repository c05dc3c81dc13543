//! The threads that connections live on. A connection stays where it was begun, so what it works with stays in the memory
//! that is near one core, and nobody takes its requests over to another.
//!
//! Invariant: every worker has a thread of its own, so that one that is held up holds up its own connections alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

/// How often a worker looks at its clock, whatever waits. Timers that are set for later, as those of requests are, then find that it
/// looks in time; with none before theirs each would interrupt its wait for sockets.
const TICK: Duration = Duration::from_millis(50);

/// The workers of a node.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a worker, until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Workers {
    /// One worker for each of these runtimes, of which each should have one thread.
    ///
    /// # Panics
    /// There is none.
    pub fn new(runtimes: impl IntoIterator<Item = Handle>) -> Self {
        let worker = |runtime: Handle| {
            runtime.spawn(tick());
            Worker {
                runtime,
                connections: Arc::default(),
            }
        };
        let workers: Vec<Worker> = runtimes.into_iter().map(worker).collect();
        assert!(!workers.is_empty(), "connections need a worker");
        Workers(workers)
    }

    /// Drives `connection` on the worker that has the fewest.
    pub(super) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let open = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let worker = self.0.iter().min_by_key(open);
        let worker = worker.expect("there is at least one worker");
        let place = Place::on(worker);
        worker.runtime.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

async fn tick() {
    loop {
        sleep(TICK).await;
    }
}

impl Place {
    fn on(worker: &Worker) -> Self {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Place(worker.connections.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;
    use std::thread;

    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    use super::*;

    fn runtime(name: &str) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        let built = builder.worker_threads(1).thread_name(name).build();
        built.expect("a runtime")
    }

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest_and_stays_there() {
        let runtimes = [runtime("first"), runtime("second")];
        let workers = Workers::new(runtimes.iter().map(|runtime| runtime.handle().clone()));
        let (seen, names) = mpsc::channel();
        let mut ends = Vec::new();
        let mut begin = |workers: &Workers| {
            let (end, ended) = oneshot::channel::<()>();
            let seen = seen.clone();
            workers.spawn(async move {
                let told = |seen: &mpsc::Sender<String>| {
                    let name = thread::current().name().unwrap_or_default().to_owned();
                    seen.send(name).expect("the test listens");
                };
                told(&seen);
                // A sender that is gone ends the connection, too.
                let _ = ended.await;
                told(&seen);
            });
            ends.push(end);
            names.recv().expect("it began")
        };
        assert_eq!(begin(&workers), "first");
        assert_eq!(begin(&workers), "second");
        assert_eq!(begin(&workers), "first");
        // The second worker's connection ends there, and the next takes its place.
        ends.remove(1).send(()).expect("it waits");
        assert_eq!(names.recv().expect("it ended"), "second");
        while workers.0[1].connections.load(Ordering::Relaxed) != 0 {
            thread::yield_now();
        }
        workers.spawn(async move {
            let name = thread::current().name().unwrap_or_default().to_owned();
            seen.send(name).expect("the test listens");
            pending::<()>().await;
        });
        assert_eq!(names.recv().expect("it began"), "second");
        let open: Vec<usize> = workers
            .0
            .iter()
            .map(|worker| worker.connections.load(Ordering::Relaxed))
            .collect();
        assert_eq!(open, [2, 1]);
    }
}
