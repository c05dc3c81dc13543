//! `qiang promo`: the life of a promotion, from its creation to its deletion.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qiang_engine::PromotionId;
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Answer, Client};
use super::grab::ChannelArg;
use super::output::{Output, cell};
use super::values::{Ask, LimitArg, TimeArg, in_url, read_json, with_query};

/// What to do with promotions.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  qiang promo create A --quantity 100 --per-pin 2\n  qiang promo list"
)]
pub(crate) enum PromoCommand {
    /// Create a promotion
    #[command(after_help = "Example:\n  qiang promo create A --quantity 100\n  \
        qiang promo create B --quantity 500 --per-pin 2 --per-ip 10 --starts-at +10m\n  \
        qiang promo create --file promotion.json\n\n\
        Creating the same again is no error; another promotion of the same id is.")]
    Create(Box<CreateArgs>),
    /// Show one promotion
    #[command(after_help = "Example:\n  qiang promo get A")]
    Get(PromotionArg),
    /// List promotions
    #[command(
        after_help = "Example:\n  qiang promo list\n  qiang promo list --state sold_out --limit 20"
    )]
    List(ListArgs),
    /// Change a promotion
    #[command(after_help = "Example:\n  qiang promo update A --add-quantity 50\n  \
        qiang promo update A --per-pin 3 --per-ip none --ends-at +2h\n\n\
        What is not named stays as it is.")]
    Update(Box<UpdateArgs>),
    /// Refuse further grabs of a promotion, for now
    #[command(after_help = "Example:\n  qiang promo stop A")]
    Stop(PromotionArg),
    /// Go on with a stopped promotion
    #[command(after_help = "Example:\n  qiang promo resume A")]
    Resume(PromotionArg),
    /// Close a promotion for good; its held orders live on until paid or expired
    #[command(after_help = "Example:\n  qiang promo delete A --yes")]
    Delete(PromotionArg),
}

/// Which promotion.
#[derive(Debug, Args)]
pub(crate) struct PromotionArg {
    /// The promotion
    #[arg(value_name = "PROMOTION_ID")]
    promotion: PromotionId,
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only promotions in this state
    #[arg(long, value_parser = ["scheduled", "active", "sold_out", "stopped", "ended", "deleted"])]
    state: Option<String>,
    /// Only promotions after this one, in the order of their ids
    #[arg(long, value_name = "PROMOTION_ID")]
    after: Option<PromotionId>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
}

/// Terms that can be set at creation and changed later.
#[derive(Debug, Args)]
struct TermsArgs {
    /// What people call it
    #[arg(long)]
    title: Option<String>,
    /// Grabs are refused from this time on: RFC 3339, or +2h from now
    #[arg(long, value_name = "TIME")]
    ends_at: Option<TimeArg>,
    /// Attempts taken in one window
    #[arg(long, value_name = "COUNT", requires = "rate_window_ms")]
    rate_attempts: Option<u64>,
    /// Length of the window in milliseconds
    #[arg(long, value_name = "MS", requires = "rate_attempts")]
    rate_window_ms: Option<u64>,
    /// How long an order is held for payment, in milliseconds
    #[arg(long, value_name = "MS")]
    payment_timeout_ms: Option<u64>,
    /// Where it is sold
    #[arg(long, value_enum, value_delimiter = ',')]
    channels: Vec<ChannelArg>,
    /// Price outside the promotion, in minor units
    #[arg(long, value_name = "CENTS", requires_all = ["promotion_cents", "currency"])]
    original_cents: Option<u64>,
    /// Price while the promotion is active, in minor units
    #[arg(long, value_name = "CENTS", requires_all = ["original_cents", "currency"])]
    promotion_cents: Option<u64>,
    /// ISO 4217 code of the prices
    #[arg(long, value_name = "CODE", requires_all = ["original_cents", "promotion_cents"])]
    currency: Option<String>,
}

/// A new promotion.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The promotion
    #[arg(value_name = "PROMOTION_ID", required_unless_present = "file")]
    promotion: Option<PromotionId>,
    /// Units offered
    #[arg(long, value_name = "UNITS", required_unless_present = "file")]
    quantity: Option<u64>,
    /// Units in one order; without it, not limited by it
    #[arg(long, value_name = "UNITS")]
    per_order: Option<u32>,
    /// Units over all live orders of one pin
    #[arg(long, value_name = "UNITS")]
    per_pin: Option<u32>,
    /// Units over all live orders from one ip
    #[arg(long, value_name = "UNITS")]
    per_ip: Option<u32>,
    /// The shop's own kind number
    #[arg(long)]
    kind: Option<u32>,
    /// What is sold
    #[arg(long = "sku", value_name = "SKU_ID")]
    skus: Vec<String>,
    /// Grabs are refused before this time: RFC 3339, or +10m from now
    #[arg(long, value_name = "TIME")]
    starts_at: Option<TimeArg>,
    #[command(flatten)]
    terms: TermsArgs,
    /// The whole promotion as JSON, as `POST /v1/promotions` takes it; - for stdin
    #[arg(long, value_name = "FILE", exclusive = true)]
    file: Option<PathBuf>,
}

/// A change of a promotion.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The promotion
    #[arg(value_name = "PROMOTION_ID")]
    promotion: PromotionId,
    /// Units added; negative to take units away, at most what remains
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true)]
    add_quantity: Option<i64>,
    /// Units in one order, or none
    #[arg(long, value_name = "UNITS")]
    per_order: Option<LimitArg>,
    /// Units over all live orders of one pin, or none
    #[arg(long, value_name = "UNITS")]
    per_pin: Option<LimitArg>,
    /// Units over all live orders from one ip, or none
    #[arg(long, value_name = "UNITS")]
    per_ip: Option<LimitArg>,
    #[command(flatten)]
    terms: TermsArgs,
}

/// Runs the command.
pub(crate) async fn run(
    command: PromoCommand,
    ask: Ask,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let answer = match command {
        PromoCommand::Create(args) => client.post("/v1/promotions", Some(&args.body()?)).await?,
        PromoCommand::Get(arg) => client.get(&arg.path("")).await?,
        PromoCommand::List(args) => return list(&args, client, out).await,
        PromoCommand::Update(args) => update(&args, client).await?,
        PromoCommand::Stop(arg) => client.post(&arg.path("/stop"), None).await?,
        PromoCommand::Resume(arg) => client.post(&arg.path("/resume"), None).await?,
        PromoCommand::Delete(arg) => {
            ask.confirm(&format!("Delete promotion {} for good?", arg.promotion))?;
            client.delete(&arg.path("")).await?
        }
    };
    print(&answer, out)
}

impl PromotionArg {
    fn path(&self, action: &str) -> String {
        path(&self.promotion, action)
    }
}

fn path(promotion: &PromotionId, action: &str) -> String {
    format!("/v1/promotions/{}{action}", in_url(promotion.as_str()))
}

impl TermsArgs {
    fn put(&self, body: &mut Map<String, Value>) {
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set("title", self.title.as_ref().map(|title| json!(title)));
        set("ends_at", self.ends_at.map(TimeArg::to_json));
        set(
            "payment_timeout_ms",
            self.payment_timeout_ms.map(|ms| json!(ms)),
        );
        let channels: Vec<&str> = self
            .channels
            .iter()
            .map(|channel| channel.as_str())
            .collect();
        set("channels", (!channels.is_empty()).then(|| json!(channels)));
        let rate = self.rate_attempts.zip(self.rate_window_ms);
        set(
            "rate",
            rate.map(|(attempts, window_ms)| json!({"window_ms": window_ms, "attempts": attempts})),
        );
        let price = self
            .original_cents
            .zip(self.promotion_cents)
            .zip(self.currency.as_ref());
        set(
            "price",
            price.map(|((original, promotion), currency)| {
                json!({"original_cents": original, "promotion_cents": promotion, "currency": currency})
            }),
        );
    }
}

impl CreateArgs {
    fn body(&self) -> Result<Value, Failure> {
        if let Some(file) = &self.file {
            return read_json(file);
        }
        let mut body = Map::new();
        self.terms.put(&mut body);
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set(
            "promotion_id",
            self.promotion.as_ref().map(|id| json!(id.as_str())),
        );
        set("quantity", self.quantity.map(|quantity| json!(quantity)));
        set("kind", self.kind.map(|kind| json!(kind)));
        set("sku_ids", (!self.skus.is_empty()).then(|| json!(self.skus)));
        set("starts_at", self.starts_at.map(TimeArg::to_json));
        let limits = limits([
            ("per_order", self.per_order),
            ("per_pin", self.per_pin),
            ("per_ip", self.per_ip),
        ]);
        set(
            "limits",
            (!limits.is_empty()).then_some(Value::Object(limits)),
        );
        Ok(Value::Object(body))
    }
}

/// The limits that are set.
fn limits(given: [(&str, Option<u32>); 3]) -> Map<String, Value> {
    let set = given
        .into_iter()
        .filter_map(|(name, units)| Some((name.to_owned(), json!(units?))));
    set.collect()
}

/// Changes what is named. A change of limits replaces all of them, so those not named are read first.
async fn update(args: &UpdateArgs, client: &Client) -> Result<Answer, Failure> {
    let path = path(&args.promotion, "");
    let mut body = Map::new();
    args.terms.put(&mut body);
    if let Some(units) = args.add_quantity {
        body.insert("add_quantity".to_owned(), json!(units));
    }
    let named = [
        ("per_order", args.per_order),
        ("per_pin", args.per_pin),
        ("per_ip", args.per_ip),
    ];
    if named.iter().any(|(_, limit)| limit.is_some()) {
        let present = client.get(&path).await?.json()?;
        body.insert(
            "limits".to_owned(),
            Value::Object(changed_limits(&present, named)),
        );
    }
    if body.is_empty() {
        let help = "nothing to change: name at least one of the flags that `qiang promo update --help` lists";
        return Err(Failure::Usage(help.to_owned()));
    }
    client.patch(&path, &Value::Object(body)).await
}

/// The limits a promotion has, with those that were named.
fn changed_limits(present: &Value, named: [(&str, Option<LimitArg>); 3]) -> Map<String, Value> {
    limits(named.map(|(name, limit)| {
        match limit {
            Some(limit) => (name, limit.units()),
            None => (
                name,
                present["limits"][name]
                    .as_u64()
                    .and_then(|units| u32::try_from(units).ok()),
            ),
        }
    }))
}

/// The members of a promotion in the order they are read.
const MEMBERS: [&str; 26] = [
    "promotion_id",
    "title",
    "state",
    "original",
    "remaining",
    "granted",
    "confirmed",
    "returned",
    "attempts",
    "starts_at",
    "ends_at",
    "limits",
    "rate",
    "payment_timeout_ms",
    "channels",
    "price",
    "price_state",
    "current_price_cents",
    "kind",
    "sku_ids",
    "quantity",
    "added",
    "held",
    "created_at",
    "shard",
    "version",
];

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if answer.body.is_empty() {
        return Ok(());
    }
    if out.is_json() {
        return out.json(answer.text()?);
    }
    out.members(&answer.json()?, &MEMBERS)
}

async fn list(args: &ListArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let parameters = [
        ("state", args.state.clone()),
        ("after", args.after.as_ref().map(ToString::to_string)),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ];
    let answer = client
        .get(&with_query("/v1/promotions", &parameters))
        .await?;
    if out.is_json() {
        return out.json(answer.text()?);
    }
    let page = answer.json()?;
    let promotions = page["promotions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let row = |promotion: &Value| {
        [
            "promotion_id",
            "state",
            "original",
            "remaining",
            "granted",
            "confirmed",
            "returned",
            "current_price_cents",
            "shard",
            "title",
        ]
        .map(|member| cell(&promotion[member]))
        .to_vec()
    };
    let columns = [
        "PROMOTION",
        "STATE",
        ">ORIGINAL",
        ">REMAINING",
        ">GRANTED",
        ">CONFIRMED",
        ">RETURNED",
        ">PRICE",
        ">SHARD",
        "TITLE",
    ];
    out.table(&columns, &promotions.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: PromoCommand,
    }

    fn created(arguments: &[&str]) -> Value {
        let line = Line::try_parse_from([&["promo", "create"], arguments].concat()).unwrap();
        let PromoCommand::Create(args) = line.command else {
            panic!("{line:?}")
        };
        args.body().unwrap()
    }

    #[test]
    fn only_what_was_given_is_sent() {
        assert_eq!(
            created(&["A", "--quantity", "3"]),
            json!({"promotion_id": "A", "quantity": 3})
        );
        let body = created(&[
            "A",
            "--quantity",
            "3",
            "--per-pin",
            "2",
            "--sku",
            "1",
            "--sku",
            "2",
            "--channels",
            "app,web",
            "--rate-attempts",
            "5",
            "--rate-window-ms",
            "1000",
            "--starts-at",
            "2026-06-18T00:00:00Z",
            "--original-cents",
            "2",
            "--promotion-cents",
            "1",
            "--currency",
            "CNY",
        ]);
        let expected = json!({
            "promotion_id": "A", "quantity": 3, "limits": {"per_pin": 2}, "sku_ids": ["1", "2"],
            "channels": ["app", "web"], "rate": {"window_ms": 1000, "attempts": 5},
            "starts_at": "2026-06-18T00:00:00.000Z",
            "price": {"original_cents": 2, "promotion_cents": 1, "currency": "CNY"}
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn half_a_rate_or_half_a_price_is_wrong_use() {
        for half in [
            &["--rate-attempts", "5"][..],
            &["--original-cents", "2"],
            &["--currency", "CNY"],
        ] {
            let line = [&["promo", "create", "A", "--quantity", "3"], half].concat();
            assert!(Line::try_parse_from(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn limits_that_are_not_named_stay() {
        let present = json!({"limits": {"per_order": 1, "per_pin": 2}});
        let limit = |text: &str| Some(text.parse::<LimitArg>().unwrap());
        let changed = changed_limits(
            &present,
            [
                ("per_order", limit("none")),
                ("per_pin", None),
                ("per_ip", limit("9")),
            ],
        );
        assert_eq!(Value::Object(changed), json!({"per_pin": 2, "per_ip": 9}));
    }
}
