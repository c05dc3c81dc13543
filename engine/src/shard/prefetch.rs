//! What a grab will look at, fetched ahead. A shard of a million orders does not fit a processor's cache, so each of its
//! tables makes a grab wait for memory; the waits of several grabs overlap if all are begun before the first is decided.
//!
//! Nothing is decided here: without it every answer would be the same.

use super::{Shard, ip_bytes};
use crate::command::{Command, Grab};

impl Shard {
    /// Has the processor fetch what deciding `command` will look at, without waiting for it.
    pub fn prefetch(&self, command: &Command) {
        match command {
            Command::Grab(grab) => self.prefetch_grab(grab),
            Command::TryGrab(attempt) => self.prefetch_grab(&attempt.grab),
            Command::Confirm { order_id }
            | Command::Cancel { order_id, .. }
            | Command::GetOrder { order_id } => {
                self.order_index
                    .prefetch(self.hasher.hash(order_id.as_bytes()));
            }
            _ => {}
        }
    }

    fn prefetch_grab(&self, grab: &Grab) {
        self.order_index
            .prefetch(self.hasher.hash(grab.order_id.as_bytes()));
        let (ip, bytes) = ip_bytes(grab.ip);
        let ip = &ip[..bytes];
        for item in &grab.items {
            if let Some(number) = self.promotion_number(&item.promotion_id) {
                self.pins
                    .prefetch(&self.hasher, number, grab.pin.as_bytes());
                self.ips.prefetch(&self.hasher, number, ip);
            }
        }
        if let Some(seen) = &self.seen {
            seen.prefetch(seen.order(&grab.order_id));
            seen.prefetch(seen.pin(&grab.pin));
            seen.prefetch(seen.ip(ip));
        }
    }
}
