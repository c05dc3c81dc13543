use super::*;
use crate::cluster::Member;
use crate::placement::Duty;
use crate::testing::log_id;

/// A document of this revision that names these nodes of data centre b, each by an address of that revision, and in which these are to
/// vote in the meta group.
fn document(revision: u64, nodes: &[u64], meta: &[u64], removed: &[u64]) -> Cluster {
    let member = |id: &u64| {
        let info = NodeInfo {
            peer_address: format!("node-{id}-{revision}"),
            dc: "b".to_owned(),
            ..NodeInfo::default()
        };
        let duty = Duty::Serves;
        (*id, Member { info, duty })
    };
    let mut cluster = Cluster {
        revision,
        nodes: nodes.iter().map(member).collect(),
        removed: removed.iter().copied().collect(),
        ..Cluster::default()
    };
    cluster.placement.meta = meta.to_vec();
    cluster
}

fn addresses(roll: &Roll) -> Vec<&str> {
    let infos = roll.nodes.values();
    infos.map(|info| info.peer_address.as_str()).collect()
}

#[test]
fn a_roll_has_whom_any_document_names_as_the_newest_does_but_nobody_who_was_removed() {
    let mut roll = Roll::default();
    roll.take_in(&document(3, &[3, 4], &[], &[]));
    roll.take_in(&document(5, &[4, 5], &[], &[2]));
    roll.take_in(&document(4, &[2, 3, 4], &[], &[]));
    assert_eq!(addresses(&roll), ["node-3-3", "node-4-5", "node-5-5"]);
    assert_eq!(roll.cluster.revision, 5);
    roll.take_in(&document(6, &[4, 5], &[], &[2, 3]));
    assert_eq!(addresses(&roll), ["node-4-6", "node-5-6"]);
    roll.take_in(&document(1, &[3], &[], &[]));
    assert_eq!(addresses(&roll), ["node-4-6", "node-5-6"]);
}

/// Who begins the meta group and who votes in it from now on, of nodes 3, 4 and 5, of which the last two should have.
fn meta_group(ends: [Option<u64>; 3]) -> (Vec<u64>, Vec<u64>) {
    let mut roll = Roll::default();
    roll.take_in(&document(1, &[3, 4, 5], &[1, 2, 4, 5], &[]));
    let sharing = Sharing::over(1).expect("an even share");
    let end = |group: GroupId, last| GroupEnd {
        group: group.0,
        last,
        term: 1,
        voters: Vec::new(),
    };
    let of_node = |(node, last): (u64, Option<u64>)| {
        let meta = end(META_GROUP, last.map(log_id));
        (node, vec![end(GroupId(0), Some(log_id(7))), meta])
    };
    let ends = (3..).zip(ends).map(of_node).collect();
    let plan = plan(&roll, sharing, &ends).expect("somebody has every group");
    let of_meta = plan.iter().filter_map(|(node, groups)| {
        let meta = groups.iter().find(|group| group.group == META_GROUP.0)?;
        Some((*node, meta))
    });
    let begins = of_meta.clone().filter(|(_, meta)| meta.begins);
    let begins = begins.map(|(node, _)| node).collect();
    let (_, any) = of_meta.into_iter().next().expect("all have it");
    let voters = any.voters.iter().map(|(node, _)| *node).collect();
    (begins, voters)
}

#[test]
fn the_meta_group_goes_on_from_its_longest_log_whoever_was_to_vote() {
    assert_eq!(
        meta_group([Some(9), Some(8), Some(7)]),
        (vec![3], vec![3, 4, 5]),
        "who was to vote had not caught up"
    );
    assert_eq!(
        meta_group([Some(9), Some(8), Some(9)]),
        (vec![5], vec![4, 5])
    );
    assert_eq!(
        meta_group([Some(9), None, None]),
        (vec![3], vec![3, 4, 5]),
        "they hold it, and nothing yet"
    );
}

/// Where the group of log 3 ends on one node, and who votes there by its log.
fn end_at(index: u64, voters: &[u64]) -> GroupEnd {
    GroupEnd {
        group: 3,
        last: Some(log_id(index)),
        term: 1,
        voters: voters.to_vec(),
    }
}

#[test]
fn a_majority_is_lost_where_the_longest_log_says_so() {
    let check = |ends: &[GroupEnd]| check_majorities(ends.iter(), |id| [1, 2, 5].contains(id));
    assert_eq!(check(&[end_at(7, &[1, 2, 3, 4])]), Ok(()), "half of it");
    assert_eq!(
        check(&[end_at(7, &[1, 2, 3]), end_at(8, &[1, 2, 3, 4])]),
        Ok(())
    );
    assert_eq!(check(&[end_at(7, &[])]), Ok(()), "it was looked at before");
    let with_witness = end_at(8, &[1, 2, 3, 4, 5]);
    let why = check(&[end_at(7, &[1, 2, 3, 4]), with_witness]).expect_err("three of five");
    for part in ["nodes 1, 2, 5,", "group 3", "--force"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn who_joined_before_all_stood_still_takes_part_the_next_time() {
    let mut roll = Roll::default();
    roll.take_in(&document(1, &[3, 4], &[], &[]));
    let ends = [3, 4].map(|id| (id, vec![end_at(7, &[1, 2, 3, 4])]));
    let ends = BTreeMap::from(ends);
    assert_eq!(check_standstill(&roll, &ends, "b", false), Ok(()));
    roll.take_in(&document(2, &[3, 4, 5], &[], &[]));
    let why = check_standstill(&roll, &ends, "b", true).expect_err("node 5 is there, too");
    assert_eq!(why, "node 5 has joined meanwhile");
    assert_eq!(check_standstill(&roll, &ends, "a", false), Ok(()));
}
