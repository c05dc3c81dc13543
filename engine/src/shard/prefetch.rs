//! What commands or records will look at, fetched ahead. A shard of a million orders does not fit a processor's cache, so each
//! of its tables makes a grab wait for memory. Here the places that several grabs will look at are gathered first and then looked
//! at one right after the other, so that all those waits overlap.
//!
//! Nothing is decided here: without it every answer would be the same.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::index::Search;
use super::{Attempts, Shard, ip_bytes};
use crate::command::Command;
use crate::ids::{OrderId, Pin, PromotionId};
use crate::promotion::Promotion;
use crate::record::Record;

/// Commands or records whose memory is fetched together.
pub const PREFETCH_MAX: usize = 16;

/// Keys of a grab of one item: an order id, a pin and an ip.
const GRAB_KEYS: usize = 3;

/// Places in memory that will be looked at soon.
#[derive(Debug)]
pub struct Ahead<'a> {
    searches: Vec<Search<'a>>,
    promotions: Vec<(&'a Promotion, &'a Attempts)>,
    filters: Vec<&'a AtomicU64>,
}

impl Default for Ahead<'_> {
    /// None yet, with room for those of [`PREFETCH_MAX`] grabs of one item.
    fn default() -> Self {
        Ahead {
            searches: Vec::with_capacity(GRAB_KEYS * PREFETCH_MAX),
            promotions: Vec::with_capacity(PREFETCH_MAX),
            filters: Vec::with_capacity(GRAB_KEYS * PREFETCH_MAX),
        }
    }
}

impl<'a> Ahead<'a> {
    /// Adds what deciding `command` on `shard` will look at.
    pub fn command(&mut self, shard: &'a Shard, command: &Command) {
        let grab = match command {
            Command::Grab(grab) => grab,
            Command::TryGrab(attempt) => &attempt.grab,
            Command::Confirm { order_id }
            | Command::Cancel { order_id, .. }
            | Command::GetOrder { order_id } => return self.order(shard, order_id),
            _ => return,
        };
        let promotions = grab.items.iter().map(|item| &item.promotion_id);
        self.grab(shard, &grab.order_id, &grab.pin, grab.ip, promotions);
    }

    /// Adds what applying `record` to `shard` will look at.
    pub fn record(&mut self, shard: &'a Shard, record: &Record) {
        match record {
            Record::Granted(granted) => {
                let promotions = granted.items.iter().map(|item| &item.promotion_id);
                let (order_id, pin) = (&granted.order_id, &granted.pin);
                self.grab(shard, order_id, pin, granted.ip, promotions);
            }
            Record::Confirmed { order_id, .. } | Record::Returned { order_id, .. } => {
                self.order(shard, order_id);
            }
            _ => {}
        }
    }

    /// Looks at all of it: at parts of indexes before their entries, since they say where those are.
    pub fn fetch(self) {
        let searches = || self.searches.iter().copied();
        let filters = self.filters.iter();
        let filters = filters.map(|place| place.load(Ordering::Relaxed));
        look(searches().map(Search::look_at_part).chain(filters));
        look(self.promotions.iter().map(|(promotion, attempts)| {
            promotion.counters.remaining ^ promotion.terms.payment_timeout_ms ^ attempts.look()
        }));
        look(searches().map(Search::look_at_entries));
    }

    fn order(&mut self, shard: &'a Shard, order_id: &OrderId) {
        let hash = shard.hasher.hash(order_id.as_bytes());
        self.searches.push(shard.order_index.search(hash));
    }

    fn grab<'p>(
        &mut self,
        shard: &'a Shard,
        order_id: &OrderId,
        pin: &Pin,
        ip: IpAddr,
        promotions: impl Iterator<Item = &'p PromotionId>,
    ) {
        self.order(shard, order_id);
        let (ip, bytes) = ip_bytes(ip);
        let ip = &ip[..bytes];
        for number in promotions.filter_map(|id| shard.promotion_number(id)) {
            let pin = shard.pins.search(&shard.hasher, number, pin.as_bytes());
            let ip = shard.ips.search(&shard.hasher, number, ip);
            self.searches.extend([pin, ip]);
            let at = number as usize;
            self.promotions
                .push((&shard.promotions[at], shard.attempts_of(number)));
        }
        if let Some(seen) = &shard.seen {
            for key in [seen.order(order_id), seen.pin(pin), seen.ip(ip)] {
                if let Some(place) = seen.place(key) {
                    self.filters.push(place);
                }
            }
        }
    }
}

/// Has the processor load all of these words.
fn look(words: impl Iterator<Item = u64>) {
    black_box(words.fold(0, |all, word| all ^ word));
}
