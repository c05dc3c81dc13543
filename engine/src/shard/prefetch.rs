//! What a command or a record will look at, fetched ahead. A shard of a million orders does not fit a processor's cache, so each
//! of its tables makes a grab wait for memory; the waits of several grabs overlap if all are begun before the first is
//! decided or applied.
//!
//! Nothing is decided here: without it every answer would be the same.

use std::net::IpAddr;

use super::{Shard, ip_bytes};
use crate::command::Command;
use crate::ids::{OrderId, Pin, PromotionId};
use crate::record::Record;

/// Commands or records whose memory is fetched together: about as many as a processor has waits for memory under way, a few
/// for each.
pub const PREFETCH_MAX: usize = 16;

impl Shard {
    /// Has the processor fetch what deciding `command` will look at, without waiting for it.
    pub fn prefetch(&self, command: &Command) {
        let grab = match command {
            Command::Grab(grab) => grab,
            Command::TryGrab(attempt) => &attempt.grab,
            Command::Confirm { order_id }
            | Command::Cancel { order_id, .. }
            | Command::GetOrder { order_id } => return self.prefetch_order(order_id),
            _ => return,
        };
        let promotions = grab.items.iter().map(|item| &item.promotion_id);
        self.prefetch_grab(&grab.order_id, &grab.pin, grab.ip, promotions);
    }

    /// Has the processor fetch what applying `record` will look at, without waiting for it.
    pub(crate) fn prefetch_record(&self, record: &Record) {
        match record {
            Record::Granted(granted) => {
                let promotions = granted.items.iter().map(|item| &item.promotion_id);
                self.prefetch_grab(&granted.order_id, &granted.pin, granted.ip, promotions);
            }
            Record::Confirmed { order_id, .. } | Record::Returned { order_id, .. } => {
                self.prefetch_order(order_id);
            }
            _ => {}
        }
    }

    fn prefetch_order(&self, order_id: &OrderId) {
        let hash = self.hasher.hash(order_id.as_bytes());
        self.order_index.prefetch(hash);
    }

    fn prefetch_grab<'a>(
        &self,
        order_id: &OrderId,
        pin: &Pin,
        ip: IpAddr,
        promotions: impl Iterator<Item = &'a PromotionId>,
    ) {
        self.prefetch_order(order_id);
        let (ip, bytes) = ip_bytes(ip);
        let ip = &ip[..bytes];
        for number in promotions.filter_map(|id| self.promotion_number(id)) {
            self.pins.prefetch(&self.hasher, number, pin.as_bytes());
            self.ips.prefetch(&self.hasher, number, ip);
        }
        if let Some(seen) = &self.seen {
            seen.prefetch(seen.order(order_id));
            seen.prefetch(seen.pin(pin));
            seen.prefetch(seen.ip(ip));
        }
    }
}
