//! One flow as one line of a table. The columns have fixed widths, because a follower prints a line before it knows the
//! next.

use serde_json::Value;

use super::super::output::cell;

/// The column heads.
pub(crate) fn head() -> String {
    columns(["CURSOR", "SHARD", "AT", "TYPE", "ORDER", "WHAT"].map(str::to_owned))
}

/// The flow `json` as a line.
pub(crate) fn line(flow: &Value, shard: u16) -> String {
    columns([
        cell(&flow["cursor"]),
        shard.to_string(),
        cell(&flow["at"]),
        cell(&flow["type"]),
        cell(&flow["order_id"]),
        what(flow),
    ])
}

fn columns([cursor, shard, at, kind, order, what]: [String; 6]) -> String {
    let line = format!("{cursor:<20}   {shard:>5}   {at:<24}   {kind:<17}   {order:<20}   {what}");
    line.trim_end().to_owned()
}

/// What moved: items, quantities, buyer and reason, as far as the flow has them.
fn what(flow: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(promotion) = flow["promotion_id"].as_str() {
        parts.push(cell(&Value::from(promotion)));
    }
    if let Some(items) = flow["items"].as_array() {
        let item = |item: &Value| {
            format!(
                "{}:{}",
                cell(&item["promotion_id"]),
                cell(&item["quantity"])
            )
        };
        parts.push(items.iter().map(item).collect::<Vec<_>>().join(" "));
    }
    for member in [
        "quantity",
        "add_quantity",
        "pin",
        "ip",
        "channel",
        "reason",
        "stopped",
    ] {
        let value = &flow[member];
        if !value.is_null() && value.as_i64() != Some(0) {
            parts.push(format!("{member}={}", cell(value)));
        }
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_grant_tells_who_took_what() {
        let flow = json!({
            "cursor": "00000000000000000012", "at": "2026-06-18T00:00:00.000Z", "type": "granted", "order_id": "o-1",
            "pin": "alice", "ip": "203.0.113.9", "channel": "app", "items": [{"promotion_id": "A", "quantity": 2}]
        });
        let expected = "00000000000000000012       3   2026-06-18T00:00:00.000Z   granted             o-1                    \
                        A:2 pin=alice ip=203.0.113.9 channel=app";
        assert_eq!(line(&flow, 3), expected);
        assert!(head().starts_with("CURSOR                 SHARD   AT "));
    }
}
