//! Orders by their id: which shard decides about one, and what is asked of it.
//!
//! An order's shard is that of its first item, which its id does not tell. A promotion of the order
//! leads there; without one every shard is asked.

use futures::future::join_all;
use qiang_engine::command::Code;
use qiang_engine::order::{Order, ReturnReason};
use qiang_engine::routing::shard_of;
use qiang_engine::{Answer, Command, OrderId, PromotionId, Refusal, Rejection, ShardId};
use tokio::time::Instant;

use crate::service::{Service, as_read, is_code, shards};

/// A cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelOrder {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub reason: ReturnReason,
    /// Also when it was paid.
    pub refund: bool,
    /// The promotions the order names: with them an order not yet seen is cancelled in advance.
    pub promotion_ids: Vec<PromotionId>,
    /// A promotion that leads to the order's shard.
    pub promotion_id: Option<PromotionId>,
}

impl Service {
    /// Reads an order.
    pub async fn get_order(
        &self,
        order_id: &OrderId,
        promotion_id: Option<&PromotionId>,
    ) -> Result<Order, Refusal> {
        let deadline = self.deadline();
        let command = Command::GetOrder {
            order_id: order_id.clone(),
        };
        match promotion_id {
            Some(promotion_id) => self.ask_home(promotion_id, command, deadline).await,
            None => self
                .find_order(order_id, deadline)
                .await
                .map(|(_, order)| order),
        }
        .map_err(as_read)
    }

    /// Confirms that an order was paid.
    pub async fn confirm_order(
        &self,
        order_id: &OrderId,
        promotion_id: Option<&PromotionId>,
    ) -> Result<Order, Refusal> {
        let deadline = self.deadline();
        let command = Command::Confirm {
            order_id: order_id.clone(),
        };
        if let Some(promotion_id) = promotion_id {
            return self.ask_home(promotion_id, command, deadline).await;
        }
        let (shard, _) = self.find_order(order_id, deadline).await.map_err(as_read)?;
        order_answer(self.ask(shard, command, deadline).await)
    }

    /// Gives an order back.
    pub async fn cancel_order(&self, cancel: CancelOrder) -> Result<Order, Refusal> {
        let deadline = self.deadline();
        let command = |promotion_id: Option<PromotionId>| Command::Cancel {
            order_id: cancel.order_id.clone(),
            reason: cancel.reason,
            refund: cancel.refund,
            promotion_id,
        };
        match self.find_known(&cancel, deadline).await.map_err(as_read)? {
            Some(shard) => order_answer(self.ask(shard, command(None), deadline).await),
            None if cancel.promotion_ids.is_empty() => Err(Refusal::Rejected(Rejection {
                code: Code::OrderNotFound,
                promotion_id: None,
            })),
            None => {
                let mut leads: Vec<&PromotionId> = Vec::new();
                for promotion_id in &cancel.promotion_ids {
                    if leads
                        .iter()
                        .all(|lead| shard_of(lead) != shard_of(promotion_id))
                    {
                        leads.push(promotion_id);
                    }
                }
                let asked = leads
                    .into_iter()
                    .map(|lead| self.ask_home(lead, command(Some(lead.clone())), deadline));
                told_of_all(join_all(asked).await)
            }
        }
    }

    /// Asks the shard of this promotion, or the one it says decides.
    async fn ask_home(
        &self,
        promotion_id: &PromotionId,
        command: Command,
        deadline: Instant,
    ) -> Result<Order, Refusal> {
        let answer = self
            .ask(shard_of(promotion_id), command.clone(), deadline)
            .await;
        if let Err(Refusal::Rejected(Rejection {
            code: Code::NotHome,
            promotion_id: Some(home),
        })) = &answer
        {
            return order_answer(self.ask(shard_of(home), command, deadline).await);
        }
        order_answer(answer)
    }

    /// The one order of this id and the shard that decides about it. Every shard is asked.
    async fn find_order(
        &self,
        order_id: &OrderId,
        deadline: Instant,
    ) -> Result<(ShardId, Order), Refusal> {
        let command = Command::GetOrder {
            order_id: order_id.clone(),
        };
        let asked = shards().map(|shard| {
            let command = command.clone();
            async move {
                (
                    shard,
                    order_answer(self.ask(shard, command, deadline).await),
                )
            }
        });
        let mut known = Vec::new();
        for (shard, answer) in join_all(asked).await {
            match answer {
                Ok(order) => known.push((shard, order)),
                Err(Refusal::Rejected(_)) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        // A tombstone gives way to the order itself.
        let real = known
            .iter()
            .filter(|(_, order)| order.buyer.is_some())
            .count();
        known.retain(|(_, order)| real == 0 || order.buyer.is_some());
        let code = match known.len() {
            0 => Code::OrderNotFound,
            2.. if real > 0 => Code::AmbiguousOrder,
            _ => return Ok(known.swap_remove(0)),
        };
        Err(Refusal::Rejected(Rejection {
            code,
            promotion_id: None,
        }))
    }

    /// The shard that decides about the order to cancel, if any shard knows it.
    async fn find_known(
        &self,
        cancel: &CancelOrder,
        deadline: Instant,
    ) -> Result<Option<ShardId>, Refusal> {
        let found = match &cancel.promotion_id {
            None => self
                .find_order(&cancel.order_id, deadline)
                .await
                .map(|(shard, _)| shard),
            Some(promotion_id) => {
                let shard = shard_of(promotion_id);
                match self
                    .ask(
                        shard,
                        Command::GetOrder {
                            order_id: cancel.order_id.clone(),
                        },
                        deadline,
                    )
                    .await
                {
                    Ok(_) => Ok(shard),
                    Err(Refusal::Rejected(Rejection {
                        code: Code::NotHome,
                        promotion_id: Some(home),
                    })) => Ok(shard_of(&home)),
                    Err(refusal) => Err(refusal),
                }
            }
        };
        match found {
            Ok(shard) => Ok(Some(shard)),
            Err(refusal) if is_code(&refusal, |code| matches!(code, Code::OrderNotFound)) => {
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }
}

/// What a cancel in advance comes to, asked of several shards, the first of which is home: a refusal of any is one of all. But that
/// nothing was done is told only if no shard has done or may have done it.
fn told_of_all(mut answers: Vec<Result<Order, Refusal>>) -> Result<Order, Refusal> {
    let may_be_done =
        |answer: &Result<Order, Refusal>| matches!(answer, Ok(_) | Err(Refusal::OutcomeUnknown));
    let some_may_be_done = answers.iter().any(may_be_done);
    answers.rotate_left(1);
    let told = answers.into_iter().reduce(Result::and);
    match told.unwrap_or(Err(Refusal::Unavailable)) {
        Err(Refusal::Unavailable | Refusal::Overloaded) if some_may_be_done => {
            Err(Refusal::OutcomeUnknown)
        }
        told => told,
    }
}

fn order_answer(answer: Result<Answer, Refusal>) -> Result<Order, Refusal> {
    match answer? {
        Answer::Order(order) => Ok(*order),
        _ => Err(Refusal::OutcomeUnknown),
    }
}

#[cfg(test)]
mod tests {
    use qiang_engine::UnixMs;
    use qiang_engine::order::{GrantedItems, OrderState};

    use super::*;

    fn cancelled(order_id: &str) -> Order {
        let at = UnixMs(1);
        Order {
            order_id: OrderId::new(order_id).expect("an id"),
            buyer: None,
            items: GrantedItems::new(),
            granted_at: at,
            pay_by: at,
            state: OrderState::Returned {
                at,
                reason: ReturnReason::User,
            },
            cart: None,
        }
    }

    #[test]
    fn a_cancel_in_advance_that_every_shard_took_is_told_as_home_tells_it() {
        let told = told_of_all(vec![Ok(cancelled("home")), Ok(cancelled("guest"))]);
        assert_eq!(told, Ok(cancelled("home")));
    }

    #[test]
    fn a_cancel_in_advance_that_some_shard_may_have_taken_is_not_told_as_if_nothing_was_done() {
        for refusal in [Refusal::Unavailable, Refusal::Overloaded] {
            for may_be_done in [Ok(cancelled("A")), Err(Refusal::OutcomeUnknown)] {
                let refused = || Err(refusal.clone());
                for answers in [
                    vec![may_be_done.clone(), refused()],
                    vec![refused(), may_be_done.clone()],
                ] {
                    let told = told_of_all(answers.clone());
                    assert_eq!(told, Err(Refusal::OutcomeUnknown), "{answers:?}");
                }
                let told = told_of_all(vec![refused(), refused()]);
                assert_eq!(told, refused(), "nothing was done");
            }
        }
    }
}
