//! When an actor is called: once for what comes together on a thread, and always.

use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use qiang_engine::{Command, PromotionId};

use super::*;
use crate::world::spawn;

const SOON: Duration = Duration::from_secs(5);

fn get(id: &str) -> Command {
    Command::GetPromotion {
        promotion_id: PromotionId::new(id).expect("an id"),
    }
}

async fn ask(mailbox: Mailbox, id: &'static str) -> Each<Outcome> {
    let deadline = Instant::now() + SOON;
    let question = Question::new([get(id)]);
    mailbox.ask(Place(0), &question, deadline).await
}

/// Refuses all that waits; how many that were.
fn refuse_all(mailbox: &Mailbox) -> usize {
    let next = std::iter::from_fn(|| mailbox.take_commands());
    let refuse = |asked: Asked| {
        let count = asked.len();
        asked.refuse(&Refusal::Unavailable);
        count
    };
    next.map(refuse).sum()
}

#[tokio::test]
async fn what_comes_together_on_a_thread_calls_the_actor_once() {
    let mailbox = Mailbox::new();
    let asked = ["A", "B", "C"].map(|id| spawn(ask(mailbox.clone(), id)));
    mailbox.stirred().await;
    assert_eq!(refuse_all(&mailbox), 3);
    for answer in asked {
        let outcomes = answer.await.expect("a task");
        assert_eq!(outcomes[0], Err(Refusal::Unavailable));
    }
    let again = tokio::time::timeout(Duration::from_millis(20), mailbox.stirred());
    assert!(again.await.is_err(), "nothing more came");
    // And whoever comes later calls anew.
    let later = spawn(ask(mailbox.clone(), "D"));
    mailbox.stirred().await;
    assert_eq!(refuse_all(&mailbox), 1);
    later.await.expect("a task");
}

#[tokio::test]
async fn a_caller_that_gives_up_has_called_nevertheless() {
    let mailbox = Mailbox::new();
    let mut asking = Box::pin(ask(mailbox.clone(), "A"));
    poll_fn(|context| {
        assert!(asking.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    // Another came in the meantime and relied on that call.
    let other = spawn(ask(mailbox.clone(), "B"));
    tokio::task::yield_now().await;
    drop(asking);
    mailbox.stirred().await;
    assert_eq!(refuse_all(&mailbox), 2);
    other.await.expect("a task");
}

#[test]
fn threads_do_not_wait_for_the_calls_of_others() {
    let mailbox = Mailbox::new();
    let runtime = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        std::thread::spawn(|| {
            let built = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            built.expect("a runtime").block_on(work);
        })
    };
    let (held, is_over) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    // A thread that is held up right after it has put its command.
    let (slow, at_it, end) = (mailbox.clone(), held.clone(), is_over.clone());
    let slow = runtime(Box::pin(async move {
        let asking = spawn(ask(slow.clone(), "A"));
        while slow.depth() == 0 {
            tokio::task::yield_now().await;
        }
        at_it.store(true, Ordering::Release);
        while !end.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        asking.await.expect("a task");
    }));
    while !held.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    let quick = mailbox.clone();
    let quick = runtime(Box::pin(async move {
        let asking = spawn(ask(quick.clone(), "B"));
        let stirred = tokio::time::timeout(SOON, quick.stirred()).await;
        assert!(
            stirred.is_ok(),
            "the call of the thread that is held up was awaited"
        );
        assert_eq!(refuse_all(&quick), 2);
        asking.await.expect("a task");
    }));
    let quick = quick.join();
    is_over.store(true, Ordering::Release);
    slow.join().expect("the slow thread");
    quick.expect("the quick thread");
}

#[tokio::test]
async fn who_takes_answers_without_waiting_has_called_too() {
    let mailbox = Mailbox::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let question = Question::for_taker(Each::from_vec(vec![get("A"), get("B")]), |outcomes| {
        tell.send(outcomes).expect("the test listens");
    });
    mailbox.tell(Place(0), &question);
    mailbox.stirred().await;
    assert_eq!(refuse_all(&mailbox), 2);
    let refused = Err(Refusal::Unavailable);
    assert_eq!(
        told.await.expect("answers").as_slice(),
        [refused.clone(), refused]
    );
}

#[tokio::test]
async fn what_finds_no_room_is_refused_at_once_and_the_rest_waits() {
    let mailbox = Mailbox::new();
    let crowd = Question::new(vec![get("A"); MAILBOX_COMMANDS_MAX + PREFETCH_MAX]);
    mailbox.put(Place(0), &crowd);
    assert_eq!(mailbox.depth(), MAILBOX_COMMANDS_MAX);
    assert_eq!(ask(mailbox.clone(), "B").await[0], Err(Refusal::Overloaded));
    assert_eq!(refuse_all(&mailbox), MAILBOX_COMMANDS_MAX);
    assert_eq!(mailbox.depth(), 0);
    let outcomes = crowd.answers(Instant::now() + SOON).await;
    let overloaded = |outcome: &&Outcome| **outcome == Err(Refusal::Overloaded);
    assert_eq!(outcomes.iter().filter(overloaded).count(), PREFETCH_MAX);
    assert!(
        outcomes[..MAILBOX_COMMANDS_MAX]
            .iter()
            .all(|outcome| *outcome == Err(Refusal::Unavailable))
    );
}
