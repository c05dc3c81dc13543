//! Promotions and their changes on their way in: from JSON to the engine's commands.
//!
//! Invariant: what reaches the engine is within its limits and its end is after its start. Of a change, only a member
//! that can be taken away may be null.

use qiang_engine::command::{Command, PromotionChange};
use qiang_engine::ids::check_id;
use qiang_engine::limits::{
    PAYMENT_TIMEOUT_MS_DEFAULT, PAYMENT_TIMEOUT_MS_MAX, QUANTITY_MAX, SKUS_MAX, TITLE_BYTES_MAX,
    WINDOW_MS_MAX,
};
use qiang_engine::promotion::{Channel, Channels, Limits, Price, Rate, Terms};
use qiang_engine::{PromotionId, UnixMs};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::json::{
    ChannelName, List, Nullable, Object, Signed, Text, TimeText, Whole, parse, present,
};
use super::problem::Problem;
use crate::cluster_config::ATTEMPTS_MAX;

/// Most minor units of a price: what every JSON reader holds exactly, 2⁵³ − 1.
const CENTS_MAX: u64 = (1 << 53) - 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    promotion_id: PromotionId,
    quantity: Whole<1, QUANTITY_MAX>,
    #[serde(default, deserialize_with = "present")]
    kind: Option<Whole<0, { u32::MAX as u64 }>>,
    #[serde(default, deserialize_with = "present")]
    title: Option<Text<TITLE_BYTES_MAX>>,
    #[serde(default, deserialize_with = "present")]
    sku_ids: Option<List<SkuId, 0, SKUS_MAX>>,
    // Null is what a promotion without them shows, so a promotion that was read can be created again.
    starts_at: Option<TimeText>,
    ends_at: Option<TimeText>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<Object<LimitsBody>>,
    rate: Option<Object<RateBody>>,
    #[serde(default, deserialize_with = "present")]
    payment_timeout_ms: Option<Whole<1, PAYMENT_TIMEOUT_MS_MAX>>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<ChannelSet>,
    price: Option<Object<PriceBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    #[serde(default, deserialize_with = "present")]
    add_quantity: Option<Signed<QUANTITY_MAX>>,
    #[serde(default, deserialize_with = "present")]
    title: Option<Text<TITLE_BYTES_MAX>>,
    #[serde(default, deserialize_with = "present")]
    ends_at: Option<Nullable<TimeText>>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<Object<LimitsBody>>,
    #[serde(default, deserialize_with = "present")]
    rate: Option<Nullable<Object<RateBody>>>,
    #[serde(default, deserialize_with = "present")]
    payment_timeout_ms: Option<Whole<1, PAYMENT_TIMEOUT_MS_MAX>>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<ChannelSet>,
    #[serde(default, deserialize_with = "present")]
    price: Option<Nullable<Object<PriceBody>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are the contract's")]
struct LimitsBody {
    per_order: Option<Whole<1, QUANTITY_MAX>>,
    per_pin: Option<Whole<1, QUANTITY_MAX>>,
    per_ip: Option<Whole<1, QUANTITY_MAX>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateBody {
    window_ms: Whole<1, WINDOW_MS_MAX>,
    attempts: Whole<0, ATTEMPTS_MAX>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceBody {
    original_cents: Whole<0, CENTS_MAX>,
    promotion_cents: Whole<0, CENTS_MAX>,
    currency: Currency,
}

/// An id of goods, in the alphabet of all ids.
#[derive(Debug)]
struct SkuId(String);

impl<'de> Deserialize<'de> for SkuId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        check_id(&text).map_err(D::Error::custom)?;
        Ok(SkuId(text))
    }
}

/// Three capital letters, as ISO 4217 writes currencies.
#[derive(Debug)]
struct Currency(String);

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Ok(Currency(text));
        }
        Err(D::Error::custom(format_args!(
            "{text:?} is not three capital letters such as CNY"
        )))
    }
}

/// Channels, at least one and none twice.
#[derive(Debug, Clone, Copy)]
struct ChannelSet(Channels);

impl<'de> Deserialize<'de> for ChannelSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const ALL: usize = Channel::ALL.len();
        let names = List::<ChannelName, 1, ALL>::deserialize(deserializer)?.0;
        for (at, ChannelName(channel)) in names.iter().enumerate() {
            if names[..at].contains(&ChannelName(*channel)) {
                let name = channel.as_str();
                return Err(D::Error::custom(format_args!("{name:?} is given twice")));
            }
        }
        Ok(ChannelSet(names.into_iter().map(|name| name.0).collect()))
    }
}

impl From<Object<LimitsBody>> for Limits {
    fn from(Object(body): Object<LimitsBody>) -> Self {
        Limits {
            per_order: body.per_order.map(Whole::u32),
            per_pin: body.per_pin.map(Whole::u32),
            per_ip: body.per_ip.map(Whole::u32),
        }
    }
}

impl From<Object<RateBody>> for Rate {
    fn from(Object(body): Object<RateBody>) -> Self {
        Rate {
            window_ms: body.window_ms.0,
            attempts: body.attempts.0,
        }
    }
}

impl From<Object<PriceBody>> for Price {
    fn from(Object(body): Object<PriceBody>) -> Self {
        Price {
            original_cents: body.original_cents.0,
            promotion_cents: body.promotion_cents.0,
            currency: body.currency.0,
        }
    }
}

/// Reads a promotion to be created: its id and the command.
///
/// # Errors
/// 400 `invalid_request` naming the member that is wrong.
pub(super) fn parse_create(body: &[u8]) -> Result<(PromotionId, Command), Problem> {
    let Object(body) = parse::<Object<CreateBody>>(body)?;
    let terms = Terms {
        kind: body.kind.map_or(0, Whole::u32),
        title: body.title.map(|title| title.0).unwrap_or_default(),
        sku_ids: body.sku_ids.map_or_else(Vec::new, |skus| {
            skus.0.into_iter().map(|sku| sku.0).collect()
        }),
        starts_at: body.starts_at.map(|time| time.0),
        ends_at: body.ends_at.map(|time| time.0),
        limits: body.limits.map(Limits::from).unwrap_or_default(),
        rate: body.rate.map(Rate::from),
        payment_timeout_ms: body
            .payment_timeout_ms
            .map_or(PAYMENT_TIMEOUT_MS_DEFAULT, |ms| ms.0),
        channels: body.channels.map_or(Channels::ALL, |set| set.0),
        price: body.price.map(Price::from),
    };
    check_order(terms.starts_at, terms.ends_at)?;
    let command = Command::CreatePromotion {
        promotion_id: body.promotion_id.clone(),
        quantity: body.quantity.0,
        terms: Box::new(terms),
    };
    Ok((body.promotion_id, command))
}

/// Reads a change of the promotion `promotion_id`.
///
/// # Errors
/// 400 `invalid_request` naming the member that is wrong.
pub(super) fn parse_change(promotion_id: PromotionId, body: &[u8]) -> Result<Command, Problem> {
    let Object(body) = parse::<Object<ChangeBody>>(body)?;
    let change = PromotionChange {
        add_quantity: body.add_quantity.map(|add| add.0),
        title: body.title.map(|title| title.0),
        ends_at: body.ends_at.map(|time| time.0.map(|time| time.0)),
        limits: body.limits.map(Limits::from),
        rate: body.rate.map(|rate| rate.0.map(Rate::from)),
        payment_timeout_ms: body.payment_timeout_ms.map(|ms| ms.0),
        channels: body.channels.map(|set| set.0),
        price: body.price.map(|price| price.0.map(Price::from)),
    };
    Ok(Command::ChangePromotion {
        promotion_id,
        change: Box::new(change),
    })
}

fn check_order(starts_at: Option<UnixMs>, ends_at: Option<UnixMs>) -> Result<(), Problem> {
    match (starts_at, ends_at) {
        (Some(start), Some(end)) if end <= start => {
            Err(Problem::invalid("ends_at", "must be later than starts_at"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "promotion_body_tests.rs"]
mod tests;
