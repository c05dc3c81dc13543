//! Refusals that need no actor: what a grab of a promotion without stock, or one that is not on sale, comes to, from the
//! promotion as it is committed.
//!
//! Invariant: where this refuses, [`Shard::decide`](crate::Shard::decide) over the same state refuses
//! with the same code. Whatever it cannot tell it leaves to the shard.

use crate::command::{Code, Grab, Rejection};
use crate::ids::UnixMs;
use crate::promotion::{Channel, Promotion, PromotionState};
use crate::seen::Seen;
use crate::shard::{Moment, Shown, ip_bytes};

/// A grab that was refused early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it is told.
    pub rejection: Rejection,
    /// Whether it counts as an attempt in the promotion's present window.
    pub counts: bool,
}

/// What the first check of a grab says of a promotion: why it is not on sale here and now, if it is not.
pub(crate) fn closed_to(promotion: &Promotion, channel: Channel, now: UnixMs) -> Option<Code> {
    match promotion.state(now) {
        PromotionState::Active | PromotionState::SoldOut => {
            (!promotion.terms.channels.contains(channel)).then_some(Code::ChannelClosed)
        }
        PromotionState::Scheduled => Some(Code::NotStarted),
        PromotionState::Ended => Some(Code::Ended),
        PromotionState::Stopped => Some(Code::Stopped),
        PromotionState::Deleted => Some(Code::Deleted),
    }
}

/// Refuses a grab for its first item, the promotion `shown`, in the order of [`Shard::decide`](crate::Shard::decide)'s checks;
/// `None` if the shard is to decide, as always while anything is on its way that a refusal may rest on. `seen` is what its
/// shard has met. Attempts are not counted here.
pub fn refuse(shown: &Shown, grab: &Grab, seen: &Seen, moment: &Moment) -> Option<Refused> {
    if shown.is_unsettled() {
        return None;
    }
    let (terms, attempts) = (shown.terms(), shown.attempts());
    let item = grab.items.first()?;
    let refused = |code, counts| {
        let promotion_id = Some(item.promotion_id.clone());
        let rejection = Rejection { code, promotion_id };
        Some(Refused { rejection, counts })
    };
    if let Some(code) = shown.closed_to(grab.channel, moment.now) {
        return refused(code, false);
    }
    if let Some(retry_after_ms) = attempts.used_up(terms, moment) {
        return refused(Code::RateLimited { retry_after_ms }, false);
    }
    let remaining = shown.counters().remaining;
    // Only the shard's owner begins a window of attempts.
    if remaining >= u64::from(item.quantity)
        || attempts.has_passed(terms, moment)
        || seen.may_have(seen.order(&grab.order_id))
    {
        return None;
    }
    let limits = &terms.limits;
    let over = |limit: Option<u32>| limit.is_some_and(|limit| item.quantity > limit);
    if over(limits.per_order) {
        return refused(Code::OrderLimit, true);
    }
    if limits.per_pin.is_some() && seen.may_have(seen.pin(&grab.pin)) {
        return None;
    }
    if over(limits.per_pin) {
        return refused(Code::PinLimit, true);
    }
    let (ip, bytes) = ip_bytes(grab.ip);
    if limits.per_ip.is_some() && seen.may_have(seen.ip(&ip[..bytes])) {
        return None;
    }
    if over(limits.per_ip) {
        return refused(Code::IpLimit, true);
    }
    refused(Code::SoldOut { remaining }, true)
}
