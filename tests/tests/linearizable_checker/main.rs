//! The checker of histories against histories whose truth is known: simulated executions are accepted, each kind of corruption is not.

mod simulation;

use std::collections::BTreeMap;
use std::time::Instant;

use qiang_tests::{
    Call, Event, GrabOutcome, Random, Recorder, ReturnOutcome, STEPS_MAX, Verdict, check,
    check_promotion,
};

use simulation::{Ask, BUSY, Plan, Simulation, Truth, unknown};

/// The checker without any idea: every order of the calls, every fate of those unknown.
fn naive(truth: &Truth, calls: &[Call]) -> bool {
    let certain = |call: &&Call| !is_unknown(&call.event);
    let Some(first_completion) = calls
        .iter()
        .filter(certain)
        .map(|call| call.completed_ns)
        .min()
    else {
        return true;
    };
    let open = calls
        .iter()
        .enumerate()
        .filter(|(_, call)| call.invoked_ns <= first_completion);
    open.into_iter().any(|(index, call)| {
        let mut after = truth.clone();
        let answer = after.answer(&ask_of(&call.event));
        let mut rest = calls.to_vec();
        rest.remove(index);
        (answer == call.event || is_unknown(&call.event)) && naive(&after, &rest)
    })
}

fn is_unknown(event: &Event) -> bool {
    unknown(&ask_of(event)) == *event
}

fn ask_of(event: &Event) -> Ask {
    match event {
        Event::Grab {
            order, quantity, ..
        } => Ask::Grab(order.clone(), *quantity),
        Event::Return { order, .. } => Ask::Return(order.clone()),
        Event::Read { .. } => Ask::Read,
    }
}

/// Changes one answer a little, so that it may or may not still be possible.
fn corrupt(calls: &mut [Call], random: &mut Random) {
    let index = usize::try_from(random.below(calls.len() as u64)).expect("below a length");
    let up = random.below(2) == 0;
    let moved = |number: u64| {
        if up {
            number + 1
        } else {
            number.saturating_sub(1)
        }
    };
    match &mut calls[index].event {
        Event::Grab { outcome, .. } => {
            *outcome = match *outcome {
                GrabOutcome::Granted { remaining } if random.below(2) == 0 => {
                    GrabOutcome::Replayed { remaining }
                }
                GrabOutcome::Granted { remaining } => GrabOutcome::Granted {
                    remaining: moved(remaining),
                },
                GrabOutcome::Replayed { remaining } => GrabOutcome::Granted { remaining },
                GrabOutcome::SoldOut { remaining } if random.below(2) == 0 => {
                    GrabOutcome::Granted { remaining }
                }
                GrabOutcome::SoldOut { remaining } => GrabOutcome::SoldOut {
                    remaining: moved(remaining),
                },
                GrabOutcome::OrderReturned => GrabOutcome::SoldOut { remaining: 0 },
                GrabOutcome::Unknown => GrabOutcome::OrderReturned,
                GrabOutcome::NotDone => GrabOutcome::Unknown,
            }
        }
        Event::Return { outcome, .. } => {
            *outcome = match *outcome {
                ReturnOutcome::Returned => ReturnOutcome::NotHeld,
                ReturnOutcome::NotHeld | ReturnOutcome::Unknown => ReturnOutcome::Returned,
                ReturnOutcome::NotDone => ReturnOutcome::Unknown,
            }
        }
        Event::Read { remaining } => *remaining = remaining.map(moved),
    }
}

#[test]
fn the_verdict_on_small_histories_is_that_of_trying_every_order() {
    let mut random = Random::from_environment();
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..20_000 {
        let plan = Plan {
            quantity: 1 + random.below(4),
            quantities_asked: 1 + random.below(2),
            calls: 9,
            clients: 4,
            unknowns: random.below(4),
            returns: 50,
            unknown_share: 3,
        };
        let mut calls = Simulation::run(plan, random.fork(0));
        random.bits();
        for _ in 0..random.below(3) {
            corrupt(&mut calls, &mut random);
        }
        calls.retain(|call| call.event != Event::Read { remaining: None });
        let expected = naive(&Truth::new(plan.quantity), &calls);
        let verdict = check_promotion(plan.quantity, &calls, STEPS_MAX);
        let found = verdict == Verdict::Linearizable;
        let shown: Vec<String> = calls.iter().map(ToString::to_string).collect();
        let (began, history) = (plan.quantity, shown.join("\n"));
        assert_eq!(
            found, expected,
            "{verdict:?} of {began} units and\n{history}"
        );
        *(if found { &mut accepted } else { &mut rejected }) += 1;
    }
    assert!(
        accepted > 4000 && rejected > 4000,
        "{accepted} accepted, {rejected} rejected"
    );
}

/// Plans of several thousand calls each, with what they are about.
fn plans() -> [(&'static str, Plan); 5] {
    [
        ("as many returns as grabs", BUSY),
        (
            "few returns",
            Plan {
                quantity: 2000,
                returns: 10,
                ..BUSY
            },
        ),
        (
            "nearly always sold out",
            Plan {
                quantity: 3,
                ..BUSY
            },
        ),
        (
            "never sold out",
            Plan {
                quantity: 100_000,
                ..BUSY
            },
        ),
        (
            "one to three units",
            Plan {
                quantity: 60,
                quantities_asked: 3,
                ..BUSY
            },
        ),
    ]
}

#[test]
fn simulated_executions_of_thousands_of_calls_are_accepted() {
    let mut random = Random::from_environment();
    for (name, plan) in plans() {
        for round in 0..4 {
            let calls = Simulation::run(plan, random.fork(round));
            random.bits();
            assert_eq!(calls.len(), plan.calls);
            let unknown = calls.iter().filter(|call| is_unknown(&call.event)).count();
            assert!(unknown >= 50, "{name}: {unknown} unknown calls");
            let began = Instant::now();
            let verdict = check_promotion(plan.quantity, &calls, STEPS_MAX);
            eprintln!("{name}: {:?}", began.elapsed());
            verdict.expect_linearizable();
        }
    }
}

/// A large history in which nothing is given back: what remains never grows.
fn only_grabs() -> (u64, Vec<Call>) {
    let plan = Plan {
        quantity: 2500,
        returns: 0,
        ..BUSY
    };
    let calls = Simulation::run(plan, Random::from_environment());
    check_promotion(plan.quantity, &calls, STEPS_MAX).expect_linearizable();
    (plan.quantity, calls)
}

/// Neither linearizable nor too hard to tell.
#[track_caller]
fn rejected(quantity: u64, calls: &[Call]) -> String {
    match check_promotion(quantity, calls, STEPS_MAX) {
        Verdict::NotLinearizable { explanation } => explanation,
        verdict => panic!("{verdict:?} of {} calls", calls.len()),
    }
}

#[test]
fn a_read_that_is_stale_by_far_is_found_among_thousands_of_calls() {
    let (quantity, mut calls) = only_grabs();
    let late = calls.len() * 3 / 4;
    let read = |call: &&mut Call| matches!(call.event, Event::Read { remaining: Some(_) });
    let call = calls[late..].iter_mut().find(read).unwrap();
    // More than all that were going on at once and all unknown calls could account for.
    let stale = match call.event {
        Event::Read {
            remaining: Some(remaining),
        } => remaining + 70,
        _ => unreachable!("found as a read"),
    };
    call.event = Event::Read {
        remaining: Some(stale),
    };
    let named = call.to_string();
    let explanation = rejected(quantity, &calls);
    assert!(explanation.contains(&named), "{explanation}");
}

#[test]
fn an_acknowledged_grab_that_a_failover_loses_is_found_among_thousands_of_calls() {
    let (quantity, mut calls) = only_grabs();
    let granted = |call: &&Call| {
        let Event::Grab { outcome, .. } = call.event else {
            return false;
        };
        matches!(outcome, GrabOutcome::Granted { .. })
    };
    let lost = calls[calls.len() / 2..].iter().find(granted).unwrap();
    let failover = lost.completed_ns;
    // From then on everybody sees as many more units as were lost: more than unknown calls could have taken.
    let more = 70;
    for call in calls.iter_mut().filter(|call| call.invoked_ns > failover) {
        match &mut call.event {
            Event::Grab {
                outcome: GrabOutcome::Granted { remaining } | GrabOutcome::SoldOut { remaining },
                ..
            }
            | Event::Read {
                remaining: Some(remaining),
            } => *remaining += more,
            _ => {}
        }
    }
    rejected(quantity, &calls);
}

/// Calls one after the other, or overlapping: `(from, to, event)`, all of different clients.
fn history(calls: &[(u64, u64, Event)]) -> Vec<Call> {
    let call = |(client, (from, to, event)): (usize, &(u64, u64, Event))| Call {
        client: client as u64,
        promotion: "A".to_owned(),
        invoked_ns: *from,
        completed_ns: *to,
        event: event.clone(),
    };
    calls.iter().enumerate().map(call).collect()
}

fn grab(order: &str, quantity: u64, outcome: GrabOutcome) -> Event {
    Event::Grab {
        order: order.to_owned(),
        quantity,
        outcome,
    }
}

fn granted(order: &str, remaining: u64) -> Event {
    grab(order, 1, GrabOutcome::Granted { remaining })
}

fn returned(order: &str, outcome: ReturnOutcome) -> Event {
    Event::Return {
        order: order.to_owned(),
        outcome,
    }
}

fn read(remaining: u64) -> Event {
    Event::Read {
        remaining: Some(remaining),
    }
}

/// Judges calls, each of which ends before the next begins.
fn in_sequence(quantity: u64, events: impl IntoIterator<Item = Event>) -> Verdict {
    let at = |(index, event): (u64, Event)| (10 * index, 10 * index + 5, event);
    let calls: Vec<(u64, u64, Event)> = (0..).zip(events).map(at).collect();
    check_promotion(quantity, &history(&calls), STEPS_MAX)
}

fn is_accepted(verdict: &Verdict) -> bool {
    *verdict == Verdict::Linearizable
}

#[test]
fn one_unit_sold_twice_is_rejected() {
    use GrabOutcome::SoldOut;
    let good = [granted("x", 0), grab("y", 1, SoldOut { remaining: 0 })];
    assert!(is_accepted(&in_sequence(1, good)));

    let calls = history(&[(0, 10, granted("x", 0)), (0, 10, granted("y", 0))]);
    let explanation = rejected(1, &calls);
    assert!(explanation.contains("grab y of 1"), "{explanation}");
}

#[test]
fn a_lost_grab_is_rejected_once_a_read_shows_it() {
    assert!(is_accepted(&in_sequence(10, [granted("x", 9), read(9)])));
    assert!(!is_accepted(&in_sequence(10, [granted("x", 9), read(10)])));
}

#[test]
fn a_read_may_show_what_was_before_a_grab_only_while_the_grab_goes_on() {
    let overlapping = history(&[(0, 10, granted("x", 9)), (5, 15, read(10))]);
    assert!(is_accepted(&check_promotion(10, &overlapping, STEPS_MAX)));
    let stale = history(&[(0, 10, granted("x", 9)), (11, 15, read(10))]);
    rejected(10, &stale);

    // Two reads while it goes on do not go back either.
    let there_and_back = history(&[
        (0, 100, granted("x", 9)),
        (10, 20, read(9)),
        (30, 40, read(10)),
    ]);
    rejected(10, &there_and_back);
}

#[test]
fn a_return_frees_its_units_once() {
    use ReturnOutcome::Returned;
    let twice = |seen| {
        let back = || returned("x", Returned);
        in_sequence(5, [granted("x", 4), back(), back(), read(seen)])
    };
    assert!(is_accepted(&twice(5)));
    assert!(!is_accepted(&twice(6)), "freed twice");
    assert!(!is_accepted(&twice(4)), "not freed");
}

#[test]
fn an_order_granted_twice_is_rejected_by_name() {
    use GrabOutcome::Replayed;
    let again = grab("x", 1, Replayed { remaining: 9 });
    assert!(is_accepted(&in_sequence(
        10,
        [granted("x", 9), granted("y", 8), again]
    )));

    let Verdict::NotLinearizable { explanation } =
        in_sequence(10, [granted("x", 9), granted("x", 8)])
    else {
        panic!("an order was granted twice");
    };
    assert!(explanation.starts_with("granted twice"), "{explanation}");
    assert!(explanation.contains("grab x of 1"), "{explanation}");
}

#[test]
fn an_explanation_tells_every_call_of_an_order_that_does_not_fit() {
    use GrabOutcome::{NotDone, Replayed};
    let again = grab("x", 1, Replayed { remaining: 9 });
    let Verdict::NotLinearizable { explanation } = in_sequence(10, [grab("x", 1, NotDone), again])
    else {
        panic!("what was never granted was replayed");
    };
    assert!(explanation.contains("all calls of x:"), "{explanation}");
    assert!(
        explanation.contains("grab x of 1 -> NotDone"),
        "{explanation}"
    );
}

#[test]
fn an_order_stands_where_its_calls_left_it() {
    use GrabOutcome::{OrderReturned, Replayed, SoldOut};
    use ReturnOutcome::{NotHeld, Returned};
    let back = || returned("x", Returned);
    for (accepted, events) in [
        (
            true,
            vec![granted("x", 1), back(), grab("x", 1, OrderReturned)],
        ),
        (false, vec![granted("x", 1), grab("x", 1, OrderReturned)]),
        (
            false,
            vec![
                granted("x", 1),
                back(),
                grab("x", 1, Replayed { remaining: 1 }),
            ],
        ),
        (
            false,
            vec![
                granted("x", 1),
                granted("y", 0),
                grab("x", 1, Replayed { remaining: 0 }),
            ],
        ),
        (false, vec![granted("x", 1), returned("x", NotHeld)]),
        (true, vec![returned("x", NotHeld), granted("x", 1)]),
        (false, vec![back(), granted("x", 1)]),
        (
            true,
            vec![granted("x", 1), grab("y", 2, SoldOut { remaining: 1 })],
        ),
        (
            false,
            vec![granted("x", 1), grab("y", 1, SoldOut { remaining: 1 })],
        ),
        (
            false,
            vec![
                granted("x", 1),
                granted("y", 0),
                grab("x", 1, SoldOut { remaining: 0 }),
            ],
        ),
    ] {
        let shown = format!("{events:?}");
        assert_eq!(is_accepted(&in_sequence(2, events)), accepted, "{shown}");
    }
}

#[test]
fn a_call_of_unknown_fate_may_take_place_late_or_never_but_not_before_it_began() {
    use GrabOutcome::{NotDone, SoldOut, Unknown};
    let lost = || grab("x", 1, Unknown);
    for (accepted, events) in [
        (true, vec![lost(), read(3)]),
        (true, vec![lost(), read(3), read(2), read(2)]),
        (false, vec![lost(), read(2), read(3)]),
        (false, vec![lost(), read(1)]),
        (false, vec![read(2), lost()]),
        (true, vec![lost(), grab("x", 1, SoldOut { remaining: 0 })]),
        (false, vec![grab("x", 1, NotDone), read(2)]),
        (true, vec![grab("x", 1, NotDone), read(3)]),
    ] {
        // Three units, or none where the story is about a sold-out promotion.
        let sold_out = events.iter().any(|event| {
            matches!(
                event,
                Event::Grab {
                    outcome: SoldOut { .. },
                    ..
                }
            )
        });
        let shown = format!("{events:?}");
        let verdict = in_sequence(if sold_out { 0 } else { 3 }, events);
        assert_eq!(is_accepted(&verdict), accepted, "{shown}");
    }

    let back = || returned("x", ReturnOutcome::Unknown);
    for (accepted, seen) in [
        (true, [2, 3]),
        (true, [2, 2]),
        (true, [3, 3]),
        (false, [3, 2]),
    ] {
        let events = [granted("x", 2), back(), read(seen[0]), read(seen[1])];
        assert_eq!(is_accepted(&in_sequence(3, events)), accepted, "{seen:?}");
    }
}

#[test]
fn a_search_that_gives_up_is_a_failure() {
    let calls = Simulation::run(BUSY, Random::from_environment());
    let verdict = check_promotion(BUSY.quantity, &calls, 10);
    let Verdict::Exhausted {
        steps: 10,
        explanation,
    } = &verdict
    else {
        panic!("{verdict:?}");
    };
    assert!(
        explanation.contains("none of these fits next"),
        "{explanation}"
    );
    let outcome = std::panic::catch_unwind(|| verdict.expect_linearizable());
    assert!(outcome.is_err(), "a verdict that is no proof passed");
}

#[test]
fn promotions_are_judged_each_by_itself_and_named() {
    let mut calls = history(&[(0, 10, granted("x", 0)), (20, 30, granted("y", 0))]);
    calls[1].promotion = "B".to_owned();
    let quantities = BTreeMap::from([("A".to_owned(), 1), ("B".to_owned(), 1)]);
    check(&quantities, &calls, STEPS_MAX).expect_linearizable();

    let short = BTreeMap::from([("A".to_owned(), 1), ("B".to_owned(), 0)]);
    let Verdict::NotLinearizable { explanation } = check(&short, &calls, STEPS_MAX) else {
        panic!("B had nothing to sell");
    };
    assert!(explanation.starts_with("promotion B:"), "{explanation}");
}

#[test]
fn a_recorder_of_many_threads_keeps_times_that_enclose_each_call() {
    let recorder = Recorder::new();
    let truth = std::sync::Mutex::new(Truth::new(100));
    std::thread::scope(|scope| {
        for client in 0..8_u64 {
            let (recorder, truth) = (&recorder, &truth);
            scope.spawn(move || {
                for number in 0..100 {
                    let order = format!("o-{client}-{}", number / 2);
                    let ask = match (client + number) % 5 {
                        0 => Ask::Read,
                        1 => Ask::Return(order),
                        _ => Ask::Grab(order, 1),
                    };
                    recorder.record(client, "A", || truth.lock().unwrap().answer(&ask));
                }
            });
        }
    });
    let calls = recorder.calls();
    assert_eq!(calls.len(), 800);
    for client in 0..8 {
        let own: Vec<&Call> = calls.iter().filter(|call| call.client == client).collect();
        let one_by_one = own.is_sorted_by(|one, next| one.completed_ns <= next.invoked_ns);
        assert!(one_by_one, "{own:?}");
    }
    check_promotion(100, &calls, STEPS_MAX).expect_linearizable();
}
