//! A batch on its way into the log.
//!
//! Invariant: its actor hears of every proposal: the entry itself, once it is committed; that it was refused, if it is certain not to
//! be in the log; or that what became of it is not known.

use bytes::Bytes;
use futures::FutureExt;
use openraft::error::ClientWriteError;
use openraft::raft::ClientWriteResult;
use qiang_engine::Tag;

use crate::group::ShardGroup;
use crate::mailbox::LogEvent;
use crate::types::{LogId, OnEnd, Payload, TypeConfig};

/// A batch that an actor has decided.
pub struct Proposal {
    /// The leadership that it was decided under.
    pub leadership: Option<LogId>,
    pub tag: Tag,
    pub bytes: Vec<u8>,
}

impl Proposal {
    /// Hands it to Raft, for this leadership only, as one entry.
    pub fn hand_over(self, group: &ShardGroup) {
        let tag = self.tag;
        let mailbox = group.mailbox.clone();
        let on_end = OnEnd::new(
            move |result: Option<ClientWriteResult<TypeConfig>>| match result {
                // Committed: the entry itself has said so, in its place in the log.
                Some(Ok(_)) => {}
                Some(Err(ClientWriteError::ForwardToLeader(_))) => {
                    mailbox.push_log(LogEvent::Refused { tag });
                }
                Some(Err(_)) | None => mailbox.push_log(LogEvent::Unknown { tag }),
            },
        );
        let refused = || group.mailbox.push_log(LogEvent::Refused { tag });
        let (Some(raft), Some(leadership)) = (group.raft(), self.leadership) else {
            return refused();
        };
        let write = raft
            .write(Payload(Bytes::from(self.bytes)))
            .with_leader(leadership.leader_id)
            .responder(on_end);
        // Handing over needs no waiting unless Raft's queue is full; what was not handed over was
        // never appended.
        match write.into_future().now_or_never() {
            Some(Ok(())) => {}
            Some(Err(_)) | None => refused(),
        }
    }
}
