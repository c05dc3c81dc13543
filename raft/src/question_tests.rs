//! Every command is answered once, whoever forgets it.

use std::time::Duration;

use qiang_engine::PromotionId;
use tokio::sync::oneshot;

use super::*;

const SOON: Duration = Duration::from_secs(5);
const UNKNOWN: Outcome = Err(Refusal::OutcomeUnknown);
const OVERLOADED: Outcome = Err(Refusal::Overloaded);

fn gets(count: usize) -> Vec<Command> {
    let get = |number: usize| Command::GetPromotion {
        promotion_id: PromotionId::new(&format!("P{number}")).expect("an id"),
    };
    (0..count).map(get).collect()
}

fn asked(question: &Arc<Question>, at_a_time: usize) -> Vec<Asked> {
    Asked::all(Place(3), question, at_a_time).collect()
}

#[tokio::test]
async fn commands_are_decided_in_their_order_and_answered_in_any() {
    let question = Question::new(gets(5));
    let parts = asked(&question, 2);
    let lengths: Vec<usize> = parts.iter().map(Asked::len).collect();
    assert_eq!(lengths, [2, 2, 1]);
    let shown: Vec<Command> = parts
        .iter()
        .flat_map(Asked::commands)
        .map(|(_, command)| command.clone())
        .collect();
    assert_eq!(shown, gets(5));
    let mut replies = Vec::new();
    for part in parts {
        part.decide(|place, command, reply| {
            assert_eq!(place, Place(3));
            assert_eq!(*command, gets(5)[replies.len()]);
            replies.push(reply);
            Ok::<(), ()>(())
        })
        .expect("nothing fails");
    }
    // The last first, and one that nobody answers.
    while let Some(reply) = replies.pop() {
        if replies.len() != 2 {
            reply.send(OVERLOADED);
        }
    }
    let outcomes = question.answers(Instant::now() + SOON).await;
    let expected = [OVERLOADED, OVERLOADED, UNKNOWN, OVERLOADED, OVERLOADED];
    assert_eq!(outcomes.as_slice(), expected);
}

#[tokio::test]
async fn what_was_not_decided_is_answered_nevertheless() {
    let question = Question::new(gets(6));
    let mut parts = asked(&question, 3);
    parts.pop().expect("two").refuse(&Refusal::Overloaded);
    let mut decided = 0;
    let failed = parts.pop().expect("one").decide(|_, _, reply| {
        reply.send(OVERLOADED);
        decided += 1;
        if decided == 2 {
            Err("it fails")
        } else {
            Ok(())
        }
    });
    assert_eq!(failed, Err("it fails"));
    let outcomes = question.answers(Instant::now() + SOON).await;
    let mut expected = vec![OVERLOADED; 6];
    expected[2] = UNKNOWN;
    assert_eq!(outcomes.as_slice(), expected);
}

#[tokio::test]
async fn who_waits_no_longer_than_a_deadline_is_told_what_there_is() {
    let question = Question::new(gets(2));
    let mut parts = asked(&question, 1);
    let late = parts.pop().expect("two");
    parts.pop().expect("one").refuse(&Refusal::Overloaded);
    let outcomes = question.answers(Instant::now()).await;
    assert_eq!(outcomes.as_slice(), [OVERLOADED, UNKNOWN]);
    late.refuse(&Refusal::Overloaded);
}

#[tokio::test]
async fn a_taker_is_given_all_answers_once() {
    let (tell, told) = oneshot::channel();
    let question = Question::for_taker(Each::from_vec(gets(3)), |outcomes| {
        tell.send(outcomes).expect("the test listens");
    });
    drop(asked(&question, 2));
    let outcomes = told.await.expect("answers");
    assert_eq!(outcomes.as_slice(), [UNKNOWN, UNKNOWN, UNKNOWN]);
}
