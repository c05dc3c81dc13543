//! Strangers on the peer port: what is no frame, no handshake, or the handshake of somebody else, and members that forget
//! themselves after theirs.
//!
//! Invariant: each is dropped with one line in the log, and the cluster goes on granting.

mod wire;

use crate::{alone, buyers, promotions};
use qiang_tests::{Cluster, Node, Random, Raw, RawAnswer, wait_until};
use std::time::Duration;
use wire::{Hello, Lane, frame, frame_of_length, message, spoiled};

/// A stranger is given five seconds to say who it is; the rest is a busy machine.
const DROPPED_WITHIN: Duration = Duration::from_secs(20);

/// A node that belongs to no cluster in these tests.
const STRANGER: u64 = 77;

/// What the log says of a connection that is dropped.
const DROPPED: &str = "a connection on the peer port was dropped";

/// The longest body of a frame, by the protocol.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Connects, sends `bytes` and waits until the node hangs up: what it said before, and what it logged of it.
#[track_caller]
fn dropped(node: &Node, bytes: &[u8]) -> (String, Vec<String>) {
    let before = warnings(node).len();
    let mut stranger = Raw::connect(&node.peer_address());
    stranger.send(bytes);
    let said = match stranger.read(DROPPED_WITHIN) {
        RawAnswer::Closed(said) => said,
        other => panic!("not hung up on: {other:?}"),
    };
    let logged = wait_until(DROPPED_WITHIN, "a line in the log", || {
        let lines = warnings(node).split_off(before);
        (!lines.is_empty())
            .then_some(lines)
            .ok_or_else(|| node.log())
    });
    (said, logged)
}

/// What the node warned of, but for what it says of other nodes that it cannot reach, and of elections.
fn warnings(node: &Node) -> Vec<String> {
    let log = node.log();
    let is_warning = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let is_other = |line: &&str| line.contains("peer::dialler") || line.contains("openraft::");
    let lines = log.lines().filter(is_warning);
    let own = lines.filter(|line| !is_other(line));
    own.map(str::to_owned).collect()
}

/// One line, which says why.
#[track_caller]
fn one_line(logged: &[String], why: &str) {
    let [line] = logged else {
        panic!("one line is enough: {logged:#?}")
    };
    assert!(line.contains(why), "does not say {why:?}: {line}");
}

/// Noise of a fixed length whose first bytes are no length that a handshake may have.
fn noise(random: &mut Random) -> Vec<u8> {
    let mut noise: Vec<u8> = (0..8192)
        .flat_map(|_| random.bits().to_le_bytes())
        .collect();
    noise[3] |= 0x80;
    noise
}

#[test]
fn what_is_no_handshake_is_dropped_with_one_line_and_the_cluster_goes_on() {
    let _alone = alone();
    let mut random = Random::from_environment();
    let cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "p", &promotions, &random);
    let (node, follower) = (cluster.node(1), cluster.node(4));
    let whole = Hello::of(&cluster, STRANGER).encoded();
    let cases = [
        ("noise", noise(&mut random), "longer"),
        (
            "another protocol altogether",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            "longer",
        ),
        (
            "a frame as long as can be said",
            frame_of_length(u32::MAX),
            "longer",
        ),
        (
            "one byte more than a handshake may have",
            frame_of_length(4097),
            "longer",
        ),
        (
            "a checksum that is wrong",
            spoiled(frame(&message(0, 0, &whole))),
            "checksum",
        ),
        ("no message", frame(b""), "empty"),
        ("a message's head cut short", frame(&[0; 12]), "head"),
        (
            "a message longer than its frame",
            frame(&[0xff; 13]),
            "within a message",
        ),
        ("no value", frame(&message(0, 0, b"")), "no handshake"),
        (
            "a newer encoding",
            frame(&message(0, 0, &[&[2], &whole[1..]].concat())),
            "no handshake",
        ),
        (
            "half a handshake",
            frame(&message(0, 0, &whole[..whole.len() / 2])),
            "no handshake",
        ),
        (
            "a handshake with a rest",
            frame(&message(0, 0, &[&whole[..], b"!"].concat())),
            "no handshake",
        ),
        (
            "other first bytes",
            frame(&message(0, 0, &[&[1], &b"NASDA"[..], &whole[6..]].concat())),
            "no handshake",
        ),
    ];
    for (name, bytes, why) in &cases {
        for asked in [node, follower] {
            let (said, logged) = dropped(asked, bytes);
            assert_eq!(said, "", "{name} is answered");
            one_line(&logged, why);
            assert!(logged[0].contains(DROPPED), "{name}: {logged:?}");
        }
    }
    // Silence too, after a while.
    let (_, logged) = dropped(node, b"");
    one_line(&logged, "did not say who it is");
    let (_, logged) = dropped(node, &frame(&message(0, 0, &whole))[..20]);
    one_line(&logged, "did not say who it is");
    buyers.sell(100);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    cluster.has_all(&sold);
    println!(
        "{} strangers were dropped beside {} sales",
        cases.len() * 2 + 2,
        sold.len()
    );
}

#[test]
fn whoever_belongs_elsewhere_is_told_why_and_dropped() {
    let _alone = alone();
    let random = Random::from_environment();
    let mut cluster = Cluster::of_four();
    cluster.remove(4);
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "q", &promotions, &random);
    let node = cluster.node(1);
    let own = || Hello::of(&cluster, STRANGER);
    let known = own().cluster_id;
    let cases = [
        (
            Hello {
                cluster_id: "another".to_owned(),
                ..own()
            },
            known.as_str(),
        ),
        (
            Hello {
                protocol: 7,
                ..own()
            },
            "protocol 6, not 7",
        ),
        (
            Hello {
                protocol: 5,
                ..own()
            },
            "protocol 6, not 5",
        ),
        (
            Hello {
                to: Some(2),
                ..own()
            },
            "this is node 1",
        ),
        (
            Hello {
                incarnation: 0,
                ..own()
            },
            "incarnation 1",
        ),
        (
            Hello {
                node_id: 4,
                ..own()
            },
            "node 4 was removed",
        ),
    ];
    for (hello, why) in &cases {
        let (said, logged) = dropped(node, &hello.framed());
        assert!(
            said.contains(why),
            "the other side is not told {why:?}: {said:?}"
        );
        one_line(&logged, why);
        assert!(logged[0].contains("was turned away"), "{logged:?}");
    }
    buyers.sell(100);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    cluster.has_all(&sold);
}

#[test]
fn a_peer_that_sends_what_it_may_not_after_its_handshake_is_dropped() {
    let _alone = alone();
    let random = Random::from_environment();
    let cluster = Cluster::of_four();
    let promotions = promotions(&cluster);
    let buyers = buyers(&cluster, "r", &promotions, &random);
    let node = cluster.node(1);
    let member = Hello::of(&cluster, STRANGER);
    let nobody = Hello {
        cluster_id: String::new(),
        ..member.clone()
    };
    let recovery = Hello {
        lane: Lane::Recovery,
        incarnation: 9,
        ..member.clone()
    };
    let question = |kind: u8| frame(&message(1, kind, b"\x01"));
    let cases = [
        (
            "a frame too long by a byte",
            &member,
            frame_of_length(FRAME_BYTES_MAX + 1),
            "longer",
        ),
        (
            "a frame with a wrong checksum",
            &member,
            spoiled(question(1)),
            "checksum",
        ),
        (
            "a kind that nobody knows",
            &member,
            question(200),
            "unknown kind",
        ),
        // Log entries and votes from somebody who has shown no membership, and the same by the way of recovery.
        (
            "a stranger's log entries",
            &nobody,
            question(1),
            "may not send",
        ),
        ("a stranger's vote", &nobody, question(2), "may not send"),
        (
            "a stranger's recovery",
            &nobody,
            question(12),
            "may not send",
        ),
        (
            "a vote on the lane of recovery",
            &recovery,
            question(2),
            "may not send",
        ),
        (
            "recovery on the lane of the log",
            &member,
            question(12),
            "may not send",
        ),
    ];
    for (name, hello, bytes, why) in &cases {
        let (said, logged) = dropped(node, &[hello.framed(), bytes.clone()].concat());
        assert!(!said.is_empty(), "{name}: the handshake was not taken");
        one_line(&logged, why);
    }
    // A question that cannot be read is answered, and the node lives on.
    for kind in 1..=12 {
        let mut peer = Raw::connect(&node.peer_address());
        let lane = if kind == 12 {
            Lane::Recovery
        } else {
            Lane::Control
        };
        let hello = Hello {
            lane,
            ..member.clone()
        };
        peer.send(hello.framed())
            .send(frame(&message(1, kind, b"\x01\xff\xff\xff")));
        peer.finish_sending();
        assert!(
            matches!(peer.read(DROPPED_WITHIN), RawAnswer::Closed(_)),
            "kind {kind}"
        );
    }
    buyers.sell(100);
    let (sold, failed) = buyers.stop();
    assert!(failed.is_empty(), "{failed:?}");
    cluster.has_all(&sold);
}
