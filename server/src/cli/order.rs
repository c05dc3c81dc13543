//! `qiang order`: what became of an order, and the two ways to end it.

use clap::{Args, Subcommand};
use qiang_engine::{OrderId, PromotionId};
use serde_json::json;

use super::Failure;
use super::client::{Answer, Client};
use super::output::{Output, cell};
use super::values::{in_url, with_query};

/// What to do with an order.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  qiang order get o-1\n  qiang order confirm o-1")]
pub(crate) enum OrderCommand {
    /// Show an order
    #[command(after_help = "Example:\n  qiang order get o-1")]
    Get(OrderArgs),
    /// Say that an order was paid
    #[command(after_help = "Example:\n  qiang order confirm o-1")]
    Confirm(OrderArgs),
    /// Give an order's units back
    #[command(
        after_help = "Example:\n  qiang order cancel o-1\n  qiang order cancel o-1 --refund --reason stock\n\n\
        A cancel that comes before its grab wins if the promotions are named with --promotions."
    )]
    Cancel(CancelArgs),
}

/// Which order.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// The order
    #[arg(value_name = "ORDER_ID")]
    order: OrderId,
    /// A promotion of the order: goes straight to its shard instead of asking all
    #[arg(long, value_name = "PROMOTION_ID")]
    promotion: Option<PromotionId>,
}

/// Which order, and why.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Why
    #[arg(long, value_enum, default_value_t = ReasonArg::User)]
    reason: ReasonArg,
    /// Also if it was paid already
    #[arg(long)]
    refund: bool,
    /// The order's promotions, for a cancel that may come before its grab
    #[arg(long, value_name = "PROMOTION_ID", value_delimiter = ',')]
    promotions: Vec<PromotionId>,
}

/// Why units are given back.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ReasonArg {
    /// The buyer changed their mind
    User,
    /// The warehouse had none
    Stock,
    /// A later step of the order failed
    Downstream,
}

/// Runs the command.
pub(crate) async fn run(
    command: OrderCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let answer = match command {
        OrderCommand::Get(order) => client.get(&order.path("")).await?,
        OrderCommand::Confirm(order) => client.post(&order.path("/confirm"), None).await?,
        OrderCommand::Cancel(args) => {
            let reason = match args.reason {
                ReasonArg::User => "user",
                ReasonArg::Stock => "stock",
                ReasonArg::Downstream => "downstream",
            };
            let mut body = json!({"reason": reason});
            if args.refund {
                body["refund"] = json!(true);
            }
            if !args.promotions.is_empty() {
                let ids: Vec<&str> = args.promotions.iter().map(PromotionId::as_str).collect();
                body["promotion_ids"] = json!(ids);
            }
            client
                .post(&args.order.path("/cancel"), Some(&body))
                .await?
        }
    };
    print(&answer, out)
}

impl OrderArgs {
    fn path(&self, action: &str) -> String {
        let path = format!("/v1/orders/{}{action}", in_url(self.order.as_str()));
        with_query(
            &path,
            &[(
                "promotion_id",
                self.promotion.as_ref().map(ToString::to_string),
            )],
        )
    }
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(answer.text()?);
    }
    let order = answer.json()?;
    let mut shown = order.clone();
    // Items as they are typed: A:1,B:2.
    if let Some(items) = order["items"].as_array() {
        let items = items.iter().map(|item| {
            format!(
                "{}:{}",
                cell(&item["promotion_id"]),
                cell(&item["quantity"])
            )
        });
        shown["items"] = json!(items.collect::<Vec<_>>());
    }
    let first = [
        "order_id",
        "state",
        "reason",
        "pin",
        "ip",
        "channel",
        "items",
        "granted_at",
        "pay_by",
        "closed_at",
    ];
    out.members(&shown, &first)
}
