//! What a seat makes of blank entries: which begin a stint, and which say nothing; and what others see of it.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use qiang_engine::promotion::Terms;
use qiang_engine::routing::Sharing;
use qiang_engine::seen::Seen;
use qiang_engine::{Command, Place, PromotionId, Replica, UnixMs};

use super::*;
use crate::mailbox::Mailbox;
use crate::options::{Policy, Timing};
use crate::question::Question;

fn seat() -> Seat {
    let policy = Policy {
        default_rate: None,
        rate_percent: 100,
        order_retention_ms: 1,
        flow_retention_ms: 1,
    };
    let around = Surroundings {
        board: Board::default(),
        policy: PolicyCell::new(policy),
        closings: Closings::default(),
        courier: mpsc::channel(1).0,
        lease: Duration::ZERO,
        clock: Clock::default(),
    };
    let mailbox = Mailbox::new();
    Seat::new(
        Arc::new(ShardGroup::new(
            0,
            Sharing::NONE,
            mailbox,
            Timing::default(),
        )),
        around,
    )
}

/// A blank entry at `index` that this node proposed as the leader of `term`.
fn own_blank(term: u64, index: u64) -> LogId {
    let leader_id = LeaderId { term, node_id: 1 };
    LogId { leader_id, index }
}

fn create(id: &str) -> Command {
    Command::CreatePromotion {
        promotion_id: PromotionId::new(id).expect("an id"),
        quantity: 1,
        terms: Box::new(Terms::default()),
    }
}

/// An actor that decides since blank 1 of term 1, with one batch pending.
fn actor_with_a_pending_batch(seat: &mut Seat) -> Actor<Reply> {
    actor_with_pending(seat, 1)
}

/// The same, with so many records in that batch.
fn actor_with_pending(seat: &mut Seat, records: usize) -> Actor<Reply> {
    let mut actor = Actor::new(Replica::new(1, 0), 0, vec![Arc::new(Seen::new(0))]);
    seat.hear_blank(&mut actor, 1, Some(own_blank(1, 1)))
        .expect("a blank");
    actor.begin_turn(Moment::at(UnixMs(1)));
    for record in 0..records {
        let create = create(&format!("A{record}"));
        actor
            .handle_command(Place(0), &create, Reply::to_nobody())
            .expect("a command");
    }
    actor.end_turn(true);
    assert_eq!((actor.deciding(), actor.pending()), (true, 1));
    actor
}

#[tokio::test]
async fn a_further_blank_of_the_same_leadership_leaves_what_is_pending_alone() {
    let mut seat = seat();
    let mut actor = actor_with_a_pending_batch(&mut seat);
    seat.hear_blank(&mut actor, 2, Some(own_blank(1, 2)))
        .expect("a blank");
    assert_eq!(
        (actor.deciding(), actor.pending(), actor.applied_index()),
        (true, 1, 2)
    );
}

#[tokio::test]
async fn a_blank_of_a_later_leadership_of_this_node_ends_what_was_pending() {
    let mut seat = seat();
    let mut actor = actor_with_a_pending_batch(&mut seat);
    seat.hear_blank(&mut actor, 2, Some(own_blank(2, 2)))
        .expect("a blank");
    assert_eq!((actor.deciding(), actor.pending()), (true, 0));
}

#[tokio::test]
async fn a_blank_of_another_node_ends_what_was_pending_and_the_deciding() {
    let mut seat = seat();
    let mut actor = actor_with_a_pending_batch(&mut seat);
    seat.hear_blank(&mut actor, 2, None).expect("a blank");
    assert_eq!((actor.deciding(), actor.pending()), (false, 0));
    // And this node leads the old term no more: its blank of that term begins a stint anew.
    seat.hear_blank(&mut actor, 3, Some(own_blank(1, 3)))
        .expect("a blank");
    assert!(actor.deciding());
}

/// The bytes of the only batch that an actor has proposed and not told yet.
fn proposed(actor: &mut Actor<Reply>) -> Vec<u8> {
    let mut effects = Vec::new();
    actor.take_effects(&mut effects);
    let proposed = effects.into_iter().find_map(|effect| match effect {
        Effect::Propose { bytes, .. } => Some(bytes),
        _ => None,
    });
    proposed.expect("a proposal")
}

#[tokio::test]
async fn who_sees_that_a_stint_has_begun_finds_all_that_was_before_on_the_board() {
    const PROMOTIONS: usize = 20_000;
    let mut before = actor_with_pending(&mut seat(), PROMOTIONS);
    let bytes = Bytes::from(proposed(&mut before));

    let mut seat = seat();
    let (group, board) = (seat.group.clone(), seat.around.board.clone());
    let looking = thread::spawn(move || {
        while group.stint().is_none() {
            thread::yield_now();
        }
        let last = PromotionId::new(&format!("A{}", PROMOTIONS - 1)).expect("an id");
        board.get(&last).is_some()
    });
    let mailbox = &seat.group.mailbox;
    mailbox.push_log(LogEvent::Batch { index: 1, bytes });
    let leader = Some(own_blank(1, 2));
    mailbox.push_log(LogEvent::Blank { index: 2, leader });
    while !looking.is_finished() {
        seat.run_round().await;
    }
    assert!(looking.join().expect("it looks"), "the board was behind");
}

#[tokio::test]
async fn what_waits_beside_many_records_is_decided_when_it_is_half_as_many_or_the_log_has_spoken() {
    let mut seat = seat();
    let mut actor = actor_with_pending(&mut seat, 20);
    let deadline = Instant::now() + Duration::from_mins(1);
    let ask = |number: usize| {
        let mailbox = seat.group.mailbox.clone();
        let command = create(&format!("B{number}"));
        let question = Question::new([command]);
        spawn(async move { mailbox.ask(Place(0), &question, deadline).await })
    };
    let asked: Vec<_> = (0..9).map(ask).collect();
    while seat.group.mailbox.depth() < asked.len() {
        tokio::task::yield_now().await;
    }
    assert!(!seat.takes_turn(&actor));
    let tenth = ask(9);
    while seat.group.mailbox.depth() == asked.len() {
        tokio::task::yield_now().await;
    }
    assert!(seat.takes_turn(&actor));
    // One of them is enough once nothing else is on its way.
    while seat.group.mailbox.depth() > 1 {
        seat.group.mailbox.take_commands();
    }
    assert!(!seat.takes_turn(&actor));
    let proposed = proposed(&mut actor);
    actor.handle_batch(2, &proposed).expect("its own batch");
    assert!(seat.takes_turn(&actor));
    // Who was taken out of the mailbox and not decided is told so; the last one still waits.
    for asked in asked {
        asked.await.expect("a task");
    }
    tenth.abort();
}
