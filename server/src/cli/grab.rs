//! `qiang grab`: one order, all its items or none.

use std::net::IpAddr;

use clap::Args;
use qiang_engine::{OrderId, Pin};
use serde_json::{Value, json};

use super::Failure;
use super::client::Client;
use super::output::{Output, cell};
use super::values::ItemArg;

/// Where the grab comes from.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ChannelArg {
    /// The shop's own application
    App,
    /// WeChat
    Wechat,
    /// QQ
    Qq,
    /// The web site
    Web,
}

impl ChannelArg {
    /// The channel as the contract writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ChannelArg::App => "app",
            ChannelArg::Wechat => "wechat",
            ChannelArg::Qq => "qq",
            ChannelArg::Web => "web",
        }
    }
}

/// What to grab, and for whom.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  qiang grab --order o-1 --pin alice --ip 203.0.113.9 A:1 B:2\n\n\
    The same order id again gives the same answer and takes nothing twice: repeat the command when in doubt."
)]
pub(crate) struct GrabArgs {
    /// The order; an order id grabs at most once
    #[arg(long, value_name = "ORDER_ID")]
    order: OrderId,
    /// The buyer's account
    #[arg(long)]
    pin: Pin,
    /// The buyer's address
    #[arg(long)]
    ip: IpAddr,
    /// Where the buyer came from
    #[arg(long, value_enum, default_value_t = ChannelArg::App)]
    channel: ChannelArg,
    /// What is grabbed: PROMOTION:QUANTITY, such as A:2; PROMOTION alone is one unit
    #[arg(required = true, value_name = "ITEM")]
    items: Vec<ItemArg>,
}

/// Sends the grab and prints what was granted.
pub(crate) async fn run(args: GrabArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let body = json!({
        "order_id": args.order.as_str(),
        "pin": args.pin.as_str(),
        "ip": args.ip.to_string(),
        "channel": args.channel.as_str(),
        "items": args.items.iter().map(ItemArg::to_json).collect::<Vec<_>>(),
    });
    let answer = client.post("/v1/grabs", Some(&body)).await?;
    if out.is_json() {
        return out.json(answer.text()?);
    }
    let granted = answer.json()?;
    let columns = [
        "ORDER",
        "OUTCOME",
        "REPLAYED",
        "PROMOTION",
        ">QUANTITY",
        ">REMAINING",
        "PAY BY",
    ];
    out.table(&columns, &rows(&granted))
}

/// One row for each item.
fn rows(granted: &Value) -> Vec<Vec<String>> {
    let items = granted["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let row = |item: &Value| {
        [
            &granted["order_id"],
            &granted["outcome"],
            &granted["replayed"],
            &item["promotion_id"],
            &item["quantity"],
            &item["remaining"],
            &granted["pay_by"],
        ]
        .map(cell)
        .to_vec()
    };
    items.iter().map(row).collect()
}
