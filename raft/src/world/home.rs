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
    use std::thread;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::yield_now;

    use super::*;
    use crate::world::spawn;

    fn runtime(name: &str) -> Runtime {
        let mut builder = Builder::new_multi_thread();
        let built = builder.worker_threads(1).thread_name(name).build();
        built.expect("a runtime")
    }

    async fn thread_of_a_task() -> String {
        let named = spawn(async { thread::current().name().map(str::to_owned) });
        named.await.expect("a task").expect("a name")
    }

    #[test]
    fn what_a_request_begins_runs_at_home() {
        let (home, elsewhere) = (runtime("home"), runtime("elsewhere"));
        let home = home.block_on(async { Home::here() });
        elsewhere.block_on(async move {
            assert_eq!(thread_of_a_task().await, "elsewhere");
            let begun = home.host_all(async {
                yield_now().await;
                thread_of_a_task().await
            });
            assert_eq!(begun.await, "home");
            let task = home.host(|| spawn(async { thread::current().name().map(str::to_owned) }));
            assert_eq!(task.await.expect("a task").as_deref(), Some("home"));
            assert_eq!(thread_of_a_task().await, "elsewhere");
        });
    }
}
