//! What a promotion is: the terms a shop sets, the counters the engine keeps, and the state that
//! follows from both and the time. A state is never stored, so it can never be stale.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{PromotionId, UnixMs};
use crate::limits::{PAYMENT_TIMEOUT_MS_DEFAULT, WINDOW_MS_DEFAULT};

/// Where a grab comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The shop's own application.
    App,
    /// WeChat.
    Wechat,
    /// QQ.
    Qq,
    /// The web site.
    Web,
}

impl Channel {
    /// Every channel, in the order they are written.
    pub const ALL: [Channel; 4] = [Channel::App, Channel::Wechat, Channel::Qq, Channel::Web];

    /// The channel's name in the public contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::App => "app",
            Channel::Wechat => "wechat",
            Channel::Qq => "qq",
            Channel::Web => "web",
        }
    }
}

/// A set of channels, kept as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Channels(u8);

impl Channels {
    /// All of them: what a promotion that names none is sold on.
    pub const ALL: Channels = Channels(0b1111);

    /// Whether `channel` is in the set.
    pub fn contains(self, channel: Channel) -> bool {
        self.0 & (1 << channel as u8) != 0
    }

    /// The channels of the set.
    pub fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL
            .into_iter()
            .filter(move |channel| self.contains(*channel))
    }
}

impl FromIterator<Channel> for Channels {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        Channels(
            channels
                .into_iter()
                .fold(0, |bits, channel| bits | 1 << channel as u8),
        )
    }
}

/// How many units one order, one pin or one ip may take; absent means not limited by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Units in one order.
    pub per_order: Option<u32>,
    /// Units over all live orders of one pin.
    pub per_pin: Option<u32>,
    /// Units over all live orders from one ip.
    pub per_ip: Option<u32>,
}

/// How many grabs of a promotion may be attempted in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Length of the window in milliseconds.
    pub window_ms: u64,
    /// Attempts in one window.
    pub attempts: u64,
}

/// What the goods cost, in minor units of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Price {
    /// Price outside the promotion.
    pub original_cents: u64,
    /// Price while the promotion is active.
    pub promotion_cents: u64,
    /// ISO 4217 code.
    pub currency: String,
}

/// Everything a shop sets about a promotion. Changing any of it makes a new version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// The shop's own kind number; the engine gives it no meaning.
    pub kind: u32,
    /// What people call it.
    pub title: String,
    /// What is sold.
    pub sku_ids: Vec<String>,
    /// Grabs are refused before this time; absent means from the start.
    pub starts_at: Option<UnixMs>,
    /// Grabs are refused from this time on; absent means without end.
    pub ends_at: Option<UnixMs>,
    /// Limits per order, pin and ip.
    pub limits: Limits,
    /// Attempts window; absent means the cluster's default rate.
    pub rate: Option<Rate>,
    /// How long an order is held for payment, in milliseconds.
    pub payment_timeout_ms: u64,
    /// Where it is sold.
    pub channels: Channels,
    /// What it costs, if the shop lets the engine show it.
    pub price: Option<Price>,
}

impl Terms {
    /// The attempts window in force: the promotion's own or the default, if either is set.
    pub fn window_ms(&self, default: Option<Rate>) -> u64 {
        self.rate
            .or(default)
            .map_or(WINDOW_MS_DEFAULT, |rate| rate.window_ms)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            kind: 0,
            title: String::new(),
            sku_ids: Vec::new(),
            starts_at: None,
            ends_at: None,
            limits: Limits::default(),
            rate: None,
            payment_timeout_ms: PAYMENT_TIMEOUT_MS_DEFAULT,
            channels: Channels::ALL,
            price: None,
        }
    }
}

/// The counters of a promotion, in units.
///
/// Invariant: `original + added == remaining + held + confirmed` and
/// `granted == held + confirmed + returned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Units offered at creation (o).
    pub original: u64,
    /// Net units added since; negative when more were taken away.
    pub added: i64,
    /// Units still to be grabbed (b).
    pub remaining: u64,
    /// Units in orders that wait for payment.
    pub held: u64,
    /// Units in orders that were paid.
    pub confirmed: u64,
    /// Units ever granted.
    pub granted: u64,
    /// Units ever given back.
    pub returned: u64,
}

impl Counters {
    /// The counters of a new promotion.
    pub fn offered(original: u64) -> Self {
        Counters {
            original,
            remaining: original,
            ..Counters::default()
        }
    }

    /// Whether the invariant holds.
    pub fn balanced(&self) -> bool {
        let offered = i128::from(self.original) + i128::from(self.added);
        let accounted =
            i128::from(self.remaining) + i128::from(self.held) + i128::from(self.confirmed);
        let granted =
            i128::from(self.held) + i128::from(self.confirmed) + i128::from(self.returned);
        offered == accounted && i128::from(self.granted) == granted
    }
}

/// Why a promotion was closed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloseReason {
    /// Its end came.
    Ended,
    /// An administrator deleted it.
    Deleted,
}

/// The state a promotion is in at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionState {
    /// Before its start.
    Scheduled,
    /// On sale.
    Active,
    /// On sale, nothing remains.
    SoldOut,
    /// Stopped by an administrator; can be resumed.
    Stopped,
    /// Its end has come.
    Ended,
    /// Deleted; its held orders live on.
    Deleted,
}

impl PromotionState {
    /// The state's name in the public contract.
    pub fn as_str(self) -> &'static str {
        match self {
            PromotionState::Scheduled => "scheduled",
            PromotionState::Active => "active",
            PromotionState::SoldOut => "sold_out",
            PromotionState::Stopped => "stopped",
            PromotionState::Ended => "ended",
            PromotionState::Deleted => "deleted",
        }
    }
}

/// One promotion as a shard keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Its id.
    pub id: PromotionId,
    /// What the shop set; shared, because readers hold copies of promotions.
    pub terms: Arc<Terms>,
    /// What the shop set at creation: creating it again with the same is no conflict.
    pub created_terms: Arc<Terms>,
    /// What the engine counts.
    pub counters: Counters,
    /// Stopped by an administrator.
    pub stopped: bool,
    /// Closed for good: why, and when.
    pub closed: Option<(CloseReason, UnixMs)>,
    /// Grows by one with every change of terms, quantity or life.
    pub version: u64,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Promotion {
    /// The state at `now`.
    pub fn state(&self, now: UnixMs) -> PromotionState {
        let after = |time: Option<UnixMs>| time.is_some_and(|time| now >= time);
        match self.closed {
            Some((CloseReason::Deleted, _)) => PromotionState::Deleted,
            Some((CloseReason::Ended, _)) => PromotionState::Ended,
            None if after(self.terms.ends_at) => PromotionState::Ended,
            None if self.stopped => PromotionState::Stopped,
            None if self.terms.starts_at.is_some_and(|start| now < start) => {
                PromotionState::Scheduled
            }
            None if self.counters.remaining == 0 => PromotionState::SoldOut,
            None => PromotionState::Active,
        }
    }
}

/// A promotion as readers see it: with the attempts of the present window, which are the leader's
/// soft state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionView {
    /// The promotion.
    pub promotion: Promotion,
    /// Attempts in the present window (c).
    pub attempts: u64,
}
