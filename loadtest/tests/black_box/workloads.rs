//! Every workload against a real node, each audited clean. Invariant: each test shows that its workload did what it is for.

use super::node::{Node, load_at};

#[test]
fn spread_is_granted_and_audited() {
    let run = Node::start()
        .load("spread", &["--count", "3000", "--promotions", "50"])
        .clean();
    assert_eq!(run.number("/orders/begun"), 3_000);
    assert_eq!(run.number("/orders/granted"), 3_000);
    // A flow for each grant, and one for each promotion.
    assert_eq!(run.number("/audit/flows"), 3_050);
    assert_eq!(run.answers("granted"), 3_000);
}

#[test]
fn hot_with_pipelining_and_two_threads_is_clean() {
    let arguments = [
        "--count",
        "4001",
        "--connections",
        "8",
        "--pipeline",
        "16",
        "--threads",
        "2",
    ];
    let run = Node::start().load("hot", &arguments).clean();
    assert_eq!(run.number("/orders/granted"), 4_001);
}

#[test]
fn a_stampede_is_granted_exactly_what_there_is() {
    let run = Node::start()
        .load("stampede", &["--count", "5000", "--pipeline", "4"])
        .clean();
    assert_eq!(run.number("/orders/granted"), 100);
    assert_eq!(run.number("/orders/refused"), 4_900);
    assert_eq!(run.answers("sold_out"), 4_900);
}

#[test]
fn retries_are_replayed_and_never_granted_twice() {
    let run = Node::start()
        .load("retry", &["--count", "4000", "--quantity", "40"])
        .clean();
    assert!(run.answers("replayed") > 0, "{}", run.summary);
    assert!(run.answers("no_answer") > 0, "{}", run.summary);
    assert!(run.answers("sold_out") > 0, "{}", run.summary);
    assert!(run.number("/orders/granted") <= 64 * 40);
}

#[test]
fn mixed_confirms_cancels_expires_and_reads() {
    let run = Node::start()
        .load("mixed", &["--duration-s", "3", "--connections", "16"])
        .clean();
    assert!(run.number("/orders/confirmed") > 0, "{}", run.summary);
    assert!(run.number("/orders/cancelled") > 0, "{}", run.summary);
    // Cancelled in advance, or expired.
    assert!(run.answers("order_returned") > 0, "{}", run.summary);
    let kinds = run.summary["kinds"].as_array().unwrap();
    let names: Vec<_> = kinds
        .iter()
        .map(|kind| kind["kind"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["grab", "confirm", "cancel", "read"]);
}

#[test]
fn carts_are_all_or_nothing() {
    let run = Node::start()
        .load("cart", &["--count", "1500", "--quantity", "60"])
        .clean();
    assert!(run.number("/orders/granted") > 0);
    assert!(run.answers("sold_out") > 0, "{}", run.summary);
}

#[test]
fn every_grab_of_a_batch_is_audited() {
    let run = Node::start()
        .load("batch", &["--count", "10500", "--promotions", "20"])
        .clean();
    assert_eq!(run.number("/orders/granted"), 10_500);
    assert_eq!(run.number("/kinds/0/requests"), 11);
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let arguments = [
        "--rate",
        "500",
        "--duration-s",
        "2",
        "--warm-up-s",
        "1",
        "--promotions",
        "10",
    ];
    let run = Node::start().load("spread", &arguments).clean();
    assert_eq!(run.number("/orders/begun"), 1_500);
    let seconds = run.summary["seconds"].as_array().unwrap();
    assert!((1..=2).contains(&seconds.len()), "{seconds:?}");
}

#[test]
fn runs_one_after_the_other_do_not_meet() {
    let node = Node::start();
    let first = node.load("stampede", &["--count", "300"]).clean();
    let second = node.load("stampede", &["--count", "300"]).clean();
    assert_ne!(first.summary["run"], second.summary["run"]);
    assert_eq!(second.number("/orders/granted"), 100);
}

#[test]
fn a_node_that_goes_away_ends_its_connections_and_no_others() {
    let (stays, mut leaves) = (Node::start(), Node::start());
    // The promotions are those of the first node: the second one refuses all it is asked for, and then is gone.
    let address = stays.address.clone();
    let second = leaves.address.clone();
    let load = std::thread::spawn(move || {
        let arguments = [
            "--target",
            &second,
            "--duration-s",
            "4",
            "--connections",
            "4",
        ];
        load_at(&address, "hot", &arguments)
    });
    leaves.kill_when_asked();
    let run = load.join().unwrap();
    assert_eq!(run.code, Some(0), "{}", run.errors);
    // A socket that is about to close may take a connection more.
    assert!(run.number("/connections_lost") >= 2, "{}", run.summary);
    assert!(run.answers("promotion_not_found") > 0 && run.answers("granted") > 0);
}
