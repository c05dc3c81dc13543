//! When the followers of a group last took this node for their leader: the time at which what they answered was sent.
//!
//! openraft keeps such times, too, but takes an answer for all requests up to the same entry, among them those that were made
//! after the answered one had arrived. An answer that was held up on its way would then prolong a lease past what the follower
//! has promised. A lease therefore needs both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The last such time of each follower of one group.
#[derive(Debug, Default)]
pub struct Contacts(Mutex<BTreeMap<u64, Instant>>);

impl Contacts {
    /// Notes that `node` has answered what was sent at `sent`.
    pub fn answered(&self, node: u64, sent: Instant) {
        let mut contacts = self.lock();
        let last = contacts.entry(node).or_insert(sent);
        *last = sent.max(*last);
    }

    /// Whether with `own` a majority of each of these sets of voters has answered what was sent less than `lease` before
    /// `now`.
    pub fn vouch(
        &self,
        own: u64,
        configs: &[BTreeSet<u64>],
        now: Instant,
        lease: Duration,
    ) -> bool {
        let contacts = self.lock();
        let answered = |id: &&u64| {
            let sent = contacts.get(*id);
            **id == own || sent.is_some_and(|sent| now.duration_since(*sent) < lease)
        };
        configs
            .iter()
            .all(|voters| 2 * voters.iter().filter(answered).count() > voters.len())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);

    fn vouch(contacts: &Contacts, configs: &[&[u64]], now: Instant) -> bool {
        let sets: Vec<BTreeSet<u64>> = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        contacts.vouch(1, &sets, now, LEASE)
    }

    #[test]
    fn a_majority_of_every_set_of_voters_must_have_answered() {
        let contacts = Contacts::default();
        let now = Instant::now();
        let vouch = |configs: &[&[u64]]| vouch(&contacts, configs, now);
        assert!(vouch(&[&[1]]));
        assert!(!vouch(&[&[1, 2, 3, 4]]));
        contacts.answered(2, now);
        assert!(!vouch(&[&[1, 2, 3, 4]]), "two of four");
        contacts.answered(5, now);
        assert!(!vouch(&[&[1, 2, 3, 4]]), "5 does not vote");
        contacts.answered(3, now);
        assert!(vouch(&[&[1, 2, 3, 4]]));
        assert!(!vouch(&[&[1, 2, 3, 4], &[1, 4, 6]]));
    }

    #[test]
    fn an_answer_vouches_from_when_its_question_was_sent_however_late_it_comes() {
        let contacts = Contacts::default();
        let (sent, just) = (Instant::now(), Duration::from_millis(1));
        contacts.answered(2, sent);
        assert!(vouch(&contacts, &[&[1, 2, 3]], sent + LEASE - just));
        assert!(!vouch(&contacts, &[&[1, 2, 3]], sent + LEASE));
        contacts.answered(2, sent + just);
        contacts.answered(2, sent);
        let later = vouch(&contacts, &[&[1, 2, 3]], sent + LEASE);
        assert!(later, "the last that was sent counts");
    }
}
