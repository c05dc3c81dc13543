//! Where a node's own tasks run, whoever begins them.

use std::future::poll_fn;
use std::pin::pin;

use tokio::runtime::Handle;

/// The runtime that a node was started in. Requests are served in others, and what they begin that outlives them belongs
/// here.
#[derive(Debug, Clone)]
pub(crate) struct Home(Handle);

impl Home {
    /// The present runtime.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn here() -> Self {
        Home(Handle::current())
    }

    /// Does `work`; what it spawns, runs here.
    pub fn host<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.0.enter();
        work()
    }

    /// Waits for `work`; what it spawns, runs here.
    pub async fn host_all<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| self.host(|| work.as_mut().poll(context))).await
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use tokio::runtime::Builder;
    use tokio::task::yield_now;

    use super::*;
    use crate::world::spawn;

    async fn thread_of_a_task() -> ThreadId {
        let task = spawn(async { thread::current().id() });
        task.await.expect("a task")
    }

    #[test]
    fn what_a_request_begins_runs_at_home() {
        let runtime = || Builder::new_multi_thread().worker_threads(1).build();
        let (at_home, elsewhere) = (runtime().unwrap(), runtime().unwrap());
        let (home, own) = at_home.block_on(async { (Home::here(), thread_of_a_task().await) });
        elsewhere.block_on(async move {
            let others = thread_of_a_task().await;
            assert_ne!(others, own);
            let begun = home.host_all(async {
                yield_now().await;
                thread_of_a_task().await
            });
            assert_eq!(begun.await, own);
            let task = home.host(|| spawn(async { thread::current().id() }));
            assert_eq!(task.await.expect("a task"), own);
            assert_eq!(thread_of_a_task().await, others);
        });
    }
}
