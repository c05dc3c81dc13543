//! A witness votes and does not stand for election, unless nobody else can be elected: where it has entries that those who are left lack,
//! they cannot win its vote, and have them from a leader only. Then it leads until one of them has caught up (`reconcile` hands over).
//!
//! Invariant: it takes a leadership from nobody, for it asks whether it would be elected before it is.

use std::collections::BTreeMap;

use qiang_storage::GroupId;
use tokio::time::Instant;

use crate::node::Node;
use crate::placement::WITNESS_DC;
use crate::world::spawn;

/// How long the others may take to elect one of them, in times that followers trust a leader for: long enough for several elections.
const OTHERS_TAKE: u32 = 4;

/// Since when groups have had no leader, as far as is heard here, or when this node last stood.
pub type Leaderless = BTreeMap<GroupId, Instant>;

impl Node {
    /// Looks at every group once: has it been without a leader for so long that this node, if it is a witness, is to stand?
    pub(crate) fn stand_in(&self, leaderless: &mut Leaderless) {
        if self.groups().info.dc != WITNESS_DC {
            return;
        }
        let trust = self.timing().trust();
        for group in self.groups().all() {
            let raft = self.groups().raft(group);
            let heard = self.groups().heard(group);
            let is_led = heard.is_some_and(|ago| ago < trust);
            let Some(raft) = raft.filter(|raft| !is_led && !raft.is_leader()) else {
                leaderless.remove(&group);
                continue;
            };
            let since = leaderless.entry(group).or_insert_with(Instant::now);
            if since.elapsed() < OTHERS_TAKE * trust {
                continue;
            }
            *since = Instant::now();
            // Fails only where Raft has stopped, as its metrics tell.
            spawn(async move { raft.stand().await });
        }
    }
}
