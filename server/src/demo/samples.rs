//! The promotions to try things with.

use serde_json::{Value, json};

use crate::cli::{Client, Failure};

/// Promotions of every kind. The two of the cart live on different shards.
fn samples(now: jiff::Timestamp) -> Vec<Value> {
    let later = |seconds: i64| {
        let time = now.saturating_add(jiff::SignedDuration::from_secs(seconds));
        time.map_or(Value::Null, |time| json!(format!("{time:.3}")))
    };
    let price = json!({"original_cents": 499_900, "promotion_cents": 449_900, "currency": "CNY"});
    vec![
        json!({"promotion_id": "open", "title": "Limited by quantity alone", "quantity": 1000}),
        json!({"promotion_id": "by-ip", "title": "Two for one ip", "quantity": 100, "limits": {"per_ip": 2}}),
        json!({"promotion_id": "by-pin", "title": "Two for one pin", "quantity": 100, "limits": {"per_pin": 2}}),
        json!({
            "promotion_id": "by-ip-and-pin", "title": "One for one pin, three for one ip", "quantity": 100,
            "limits": {"per_pin": 1, "per_ip": 3}
        }),
        json!({
            "promotion_id": "later", "title": "Starts in ten minutes", "quantity": 10,
            "starts_at": later(600), "ends_at": later(86_400), "price": price
        }),
        json!({"promotion_id": "phone", "title": "A cart: phone", "quantity": 100, "price": price}),
        json!({"promotion_id": "case", "title": "A cart: case", "quantity": 100}),
    ]
}

/// Creates those that are not there yet.
pub(super) async fn create_samples(client: &Client) -> Result<(), Failure> {
    for body in samples(jiff::Timestamp::now()) {
        match client.post("/v1/promotions", Some(&body)).await {
            // Left by an earlier demo on the same data, with other times.
            Ok(_) | Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use qiang_engine::PromotionId;
    use qiang_engine::routing::shard_of;

    #[test]
    fn the_cart_of_the_samples_spans_two_shards() {
        let shard = |id: &str| shard_of(&PromotionId::new(id).unwrap());
        assert_ne!(shard("phone"), shard("case"));
    }
}
