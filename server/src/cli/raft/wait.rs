//! Waiting until the nodes have brought about what the document says.
//!
//! Invariant: no wait is for ever. What does not move for a while ends the command, and says that the cluster goes on.

use std::time::{Duration, Instant};

use super::super::{Client, ClusterView, Failure};
use super::progress::{Progress, Stage};

/// Pause between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After so long without a step, nobody is kept waiting any longer. A failover takes a second, a snapshot moves all the
/// while.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// Looks at the cluster until `judge` says that all is done; the cluster as it then is. `revision` is the one that made
/// the change: what a node tells that has not heard of it does not count.
pub(super) async fn wait(
    client: &Client,
    revision: u64,
    mut progress: Progress,
    judge: impl Fn(&ClusterView) -> Result<Stage, Failure>,
) -> Result<ClusterView, Failure> {
    let mut patience = Patience::new(Instant::now());
    let mut trouble = None;
    loop {
        match ClusterView::ask(client, false).await {
            Ok(view) if view.revision >= revision => {
                trouble = None;
                let stage = judge(&view)?;
                progress.show(&stage);
                if stage.is_over() {
                    progress.end();
                    return Ok(view);
                }
                patience.saw(stage, Instant::now());
            }
            Ok(_) => {}
            // A node may be busy or restart: what was asked for goes on meanwhile.
            Err(failure @ (Failure::Server(_) | Failure::Connect(_))) => trouble = Some(failure),
            Err(failure) => return Err(failure),
        }
        if patience.is_over(Instant::now()) {
            progress.end();
            let reached = patience.last.as_ref().map(|stage| progress.text(stage));
            return Err(Failure::Check(stuck(reached, trouble)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn stuck(reached: Option<String>, trouble: Option<Failure>) -> String {
    let reached =
        reached.unwrap_or_else(|| "the node asked has not heard of the change".to_owned());
    let trouble = trouble.map_or_else(String::new, |failure| format!("; at last: {failure}"));
    format!(
        "{reached}, and no step for {} s{trouble}. The change is made and the cluster goes on with it by itself; \
         `qiang raft status` shows how far it is",
        STUCK_AFTER.as_secs()
    )
}

/// How long nothing has moved.
struct Patience {
    last: Option<Stage>,
    moved_at: Instant,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Patience {
            last: None,
            moved_at: now,
        }
    }

    fn saw(&mut self, stage: Stage, now: Instant) {
        if self.last.as_ref() != Some(&stage) {
            self.moved_at = now;
            self.last = Some(stage);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.moved_at) >= STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_when_nothing_moves_and_not_before() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        patience.saw(Stage::of(3, 17), start);
        let later = start + STUCK_AFTER / 2;
        let moved = Stage {
            moved: 9,
            ..Stage::of(3, 17)
        };
        patience.saw(moved.clone(), later);
        assert!(!patience.is_over(start + STUCK_AFTER));
        patience.saw(moved, start + STUCK_AFTER);
        assert!(patience.is_over(later + STUCK_AFTER));
    }

    #[test]
    fn whoever_waited_in_vain_learns_how_far_it_came_and_why() {
        let told = stuck(
            Some("node 5 joins: 3 of 17 groups".to_owned()),
            Some(Failure::Connect("cannot connect".to_owned())),
        );
        assert!(
            told.starts_with(
                "node 5 joins: 3 of 17 groups, and no step for 60 s; at last: cannot connect."
            ),
            "{told}"
        );
    }
}
