//! Exact plans of clusters of well-known sizes, and what is refused.

use std::collections::BTreeSet;

use super::*;

const LOGS: usize = 16;

fn site(id: u64, dc: &str, duty: Duty) -> Site {
    Site {
        id,
        dc: dc.to_owned(),
        duty,
    }
}

fn serving(nodes: impl IntoIterator<Item = (u64, &'static str)>) -> Vec<Site> {
    let serve = |(id, dc)| site(id, dc, Duty::Serves);
    nodes.into_iter().map(serve).collect()
}

/// Nodes 1 to `count`, the first half in data centre a, the others in b.
fn halves(count: u64) -> Vec<Site> {
    serving((1..=count).map(|id| (id, if id <= count / 2 { "a" } else { "b" })))
}

fn set(sites: &mut [Site], id: u64, duty: Duty) {
    let site = sites.iter_mut().find(|site| site.id == id).unwrap();
    site.duty = duty;
}

fn fresh(sites: &[Site]) -> Placement {
    plan(sites, &Placement::unplaced(LOGS), "a")
}

fn replicas(placement: &Placement, node: u64) -> usize {
    let holds = |place: &&LogPlace| place.voters.contains(&node);
    placement.logs.iter().filter(holds).count()
}

fn led(placement: &Placement, node: u64) -> usize {
    let leads = |place: &&LogPlace| place.leader == Some(node);
    placement.logs.iter().filter(leads).count()
}

fn counts(nodes: impl IntoIterator<Item = u64>, of: impl Fn(u64) -> usize) -> Vec<usize> {
    nodes.into_iter().map(of).collect()
}

fn added(moves: &[Move], node: u64) -> usize {
    let adds = |change: &&Move| matches!(change.group, Group::Log(_)) && change.add.contains(&node);
    moves.iter().filter(adds).count()
}

#[test]
fn one_node_holds_and_leads_everything() {
    let placed = fresh(&serving([(7, "a")]));
    let alone = LogPlace {
        voters: vec![7],
        leader: Some(7),
    };
    assert_eq!(placed.logs, vec![alone; LOGS]);
    assert_eq!(placed.meta, [7]);
}

#[test]
fn three_nodes_of_one_data_centre_hold_everything_and_share_the_lead() {
    let placed = fresh(&serving([(1, "a"), (2, "a"), (3, "a")]));
    assert!(placed.logs.iter().all(|place| place.voters == [1, 2, 3]));
    assert_eq!(counts(1..=3, |node| led(&placed, node)), [6, 5, 5]);
    assert_eq!(placed.meta, [1, 2, 3]);
}

#[test]
fn four_nodes_hold_everything_and_the_preferred_data_centre_leads() {
    let placed = fresh(&halves(4));
    assert!(placed.logs.iter().all(|place| place.voters == [1, 2, 3, 4]));
    assert_eq!(counts(1..=4, |node| led(&placed, node)), [8, 8, 0, 0]);
    assert_eq!(placed.meta, [1, 2, 3, 4]);

    let moved = plan(&halves(4), &placed, "b");
    assert_eq!(counts(1..=4, |node| led(&moved, node)), [0, 0, 8, 8]);
    assert!(
        moves(&placed, &moved)
            .iter()
            .all(|change| change.add.is_empty())
    );
}

#[test]
fn a_fifth_node_as_witness_votes_everywhere_and_leads_nothing() {
    let mut sites = halves(4);
    sites.push(site(5, WITNESS_DC, Duty::Serves));
    let placed = fresh(&sites);
    assert!(
        placed
            .logs
            .iter()
            .all(|place| place.voters == [1, 2, 3, 4, 5])
    );
    assert_eq!(counts(1..=5, |node| led(&placed, node)), [8, 8, 0, 0, 0]);
    assert_eq!(placed.meta, [1, 2, 3, 4, 5]);

    // Either data centre may now die.
    let rest = BTreeSet::from([3, 4, 5]);
    assert!(
        placed
            .logs
            .iter()
            .all(|place| survives(&place.voters, &rest))
    );
}

#[test]
fn a_fifth_node_takes_its_fair_share_and_nothing_else_moves() {
    let mut sites = halves(4);
    let before = fresh(&sites);
    sites.push(site(5, "a", Duty::Serves));
    let after = plan(&sites, &before, "a");

    assert_eq!(
        counts([1, 2, 5], |node| replicas(&after, node)),
        [11, 11, 10]
    );
    assert_eq!(counts([3, 4], |node| replicas(&after, node)), [16, 16]);
    assert_eq!(counts([1, 2, 5], |node| led(&after, node)), [6, 5, 5]);
    assert_eq!(after.meta, before.meta, "the meta group is full");

    let changes = moves(&before, &after);
    assert_eq!(added(&changes, 5), 10);
    let to_others = |change: &Move| change.add.iter().any(|node| *node != 5);
    assert!(!changes.iter().any(to_others), "{changes:?}");
}

#[test]
fn eight_nodes_hold_eight_shards_each() {
    let placed = fresh(&halves(8));
    assert_eq!(counts(1..=8, |node| replicas(&placed, node)), [8; 8]);
    assert_eq!(counts(1..=4, |node| led(&placed, node)), [4; 4]);
    assert_eq!(placed.meta, [1, 2, 5, 6]);
}

#[test]
fn thirty_two_nodes_hold_two_replicas_each() {
    let placed = fresh(&halves(32));
    assert_eq!(counts(1..=32, |node| replicas(&placed, node)), [2; 32]);
    assert_eq!(counts(1..=16, |node| led(&placed, node)), [1; 16]);
    assert_eq!(placed.meta, [1, 2, 17, 18]);
}

#[test]
fn partners_of_a_node_are_spread_so_that_many_share_what_it_leaves() {
    let placed = fresh(&halves(8));
    for (one, other) in [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)] {
        let both = |place: &&LogPlace| [one, other].iter().all(|node| place.voters.contains(node));
        let shared = placed.logs.iter().filter(both).count();
        assert!(
            (2..=3).contains(&shared),
            "{one} and {other} share {shared}"
        );
    }
}

#[test]
fn a_second_data_centre_turns_three_replicas_into_two_and_two() {
    let mut sites = serving([(1, "a"), (2, "a"), (3, "a")]);
    let alone = fresh(&sites);
    sites.extend(serving([(4, "b"), (5, "b")]));
    let both = plan(&sites, &alone, "a");

    assert_eq!(
        counts(1..=5, |node| replicas(&both, node)),
        [11, 11, 10, 16, 16]
    );
    let changes = moves(&alone, &both);
    assert_eq!(
        counts(1..=5, |node| added(&changes, node)),
        [0, 0, 0, 16, 16]
    );
    assert_eq!(both.meta, [1, 2, 4, 5]);
}

#[test]
fn a_draining_node_keeps_its_replicas_and_hands_on_every_lead() {
    let mut sites = halves(8);
    let before = fresh(&sites);
    set(&mut sites, 2, Duty::NoLeading);
    let after = plan(&sites, &before, "a");

    let voters = |placement: &Placement| -> Vec<Vec<u64>> {
        let voters = placement.logs.iter().map(|place| place.voters.clone());
        voters.collect()
    };
    assert_eq!(voters(&after), voters(&before));
    assert_eq!(after.meta, before.meta);
    assert_eq!(counts(1..=4, |node| led(&after, node)), [5, 0, 6, 5]);
}

#[test]
fn a_data_centre_that_only_drains_hands_its_leads_to_the_other_one() {
    let mut sites = halves(4);
    let before = fresh(&sites);
    set(&mut sites, 1, Duty::NoLeading);
    set(&mut sites, 2, Duty::NoLeading);
    let after = plan(&sites, &before, "a");
    assert_eq!(counts(1..=4, |node| led(&after, node)), [0, 0, 8, 8]);

    // Somebody has to lead, though.
    set(&mut sites, 3, Duty::NoLeading);
    set(&mut sites, 4, Duty::NoLeading);
    let nobody_serves = plan(&sites, &after, "a");
    assert_eq!(
        counts(1..=4, |node| replicas(&nobody_serves, node)),
        [16; 4]
    );
    assert!(
        nobody_serves
            .logs
            .iter()
            .all(|place| place.leader.is_some())
    );
}

#[test]
fn a_leaving_node_gives_away_its_own_replicas_and_its_place_in_the_meta_group() {
    let mut sites = halves(8);
    let before = fresh(&sites);
    set(&mut sites, 1, Duty::Leaving);
    let after = plan(&sites, &before, "a");

    assert_eq!(
        counts(1..=4, |node| replicas(&after, node)),
        [0, 11, 11, 10]
    );
    assert_eq!(after.meta, [2, 3, 5, 6]);
    let changes = moves(&before, &after);
    let removed: Vec<u64> = changes
        .iter()
        .flat_map(|change| change.remove.clone())
        .collect();
    assert!(removed.iter().all(|node| *node == 1), "{changes:?}");
}

#[test]
fn the_last_node_keeps_everything_though_it_is_told_to_leave() {
    let mut sites = serving([(1, "a")]);
    let before = fresh(&sites);
    sites[0].duty = Duty::Leaving;
    sites.push(site(2, "a", Duty::Spare));
    sites.push(site(3, WITNESS_DC, Duty::Serves));
    assert_eq!(plan(&sites, &before, "a"), before);
}

#[test]
fn a_spare_node_gets_nothing() {
    let mut sites = halves(4);
    let before = fresh(&sites);
    sites.push(site(5, "a", Duty::Spare));
    assert_eq!(plan(&sites, &before, "a"), before);
}

#[test]
fn moves_name_what_is_added_removed_and_led_by_another() {
    let place = |voters: &[u64], leader| LogPlace {
        voters: voters.to_vec(),
        leader,
    };
    let from = Placement {
        logs: vec![
            place(&[1, 2], Some(1)),
            place(&[1, 2], Some(2)),
            place(&[], None),
            place(&[1], Some(1)),
        ],
        meta: vec![1, 2],
    };
    let to = Placement {
        logs: vec![
            place(&[2, 3], Some(3)),
            place(&[1, 2], Some(2)),
            place(&[4], Some(4)),
            place(&[1], None),
        ],
        meta: vec![2],
    };
    let expected = [
        Move {
            group: Group::Log(0),
            add: vec![3],
            remove: vec![1],
            lead: Some((Some(1), 3)),
        },
        Move {
            group: Group::Log(2),
            add: vec![4],
            remove: vec![],
            lead: Some((None, 4)),
        },
        Move {
            group: Group::Meta,
            add: vec![],
            remove: vec![1],
            lead: None,
        },
    ];
    assert_eq!(moves(&from, &to), expected);
    assert_eq!(moves(&to, &to), []);
    assert_eq!(format!("{} {}", Group::Log(2), Group::Meta), "2 meta");
}

#[test]
fn a_group_survives_with_a_majority_of_its_voters() {
    let alive = BTreeSet::from([1, 2, 3]);
    assert!(survives(&[1, 2, 3, 4], &alive));
    assert!(survives(&[1, 2, 3, 4, 5], &alive));
    assert!(!survives(&[1, 2, 4, 5], &alive), "half is no majority");
    assert!(!survives(&[], &alive));
}

#[test]
fn groups_that_a_removal_would_cost_their_quorum_are_named() {
    let mut sites = halves(4);
    let present = fresh(&sites);
    set(&mut sites, 1, Duty::Leaving);
    let after = plan(&sites, &present, "a");

    let everybody = BTreeSet::from([1, 2, 3, 4]);
    assert_eq!(would_lose_quorum(&present, &after, &everybody), []);

    // Of 2, 3 and 4, which would be left, only one is alive.
    let two_dead = BTreeSet::from([1, 2]);
    let named = would_lose_quorum(&present, &after, &two_dead);
    assert_eq!(named.len(), LOGS + 1);
    assert_eq!(named.last(), Some(&Group::Meta));

    // Two of the three would do, but there is nobody to agree to the change: two of four are no majority.
    let without_leaver = BTreeSet::from([2, 3]);
    assert!(survives(&after.meta, &without_leaver));
    assert_eq!(
        would_lose_quorum(&present, &after, &without_leaver).len(),
        LOGS + 1
    );

    // A dead node can be removed: three of four agree, and three of three go on.
    let only_leaver_dead = BTreeSet::from([2, 3, 4]);
    assert_eq!(would_lose_quorum(&present, &after, &only_leaver_dead), []);
}

#[test]
fn a_third_data_centre_is_refused_and_the_known_ones_are_named() {
    let two = halves(4);
    for known in ["a", "b", WITNESS_DC] {
        assert_eq!(check_dc(&two, known), Ok(()));
    }
    let refused = check_dc(&two, "c").unwrap_err().to_string();
    for part in ["\"c\"", "\"a\"", "\"b\"", "\"witness\""] {
        assert!(refused.contains(part), "{refused}");
    }

    let one = serving([(1, "a"), (2, WITNESS_DC)]);
    assert_eq!(check_dc(&one, "anything"), Ok(()));
    assert_eq!(check_dc(&[], "a"), Ok(()));
    let malformed = check_dc(&one, "a b").unwrap_err().to_string();
    assert!(
        malformed.contains("\"a b\"") && malformed.contains("offset 1"),
        "{malformed}"
    );
}
