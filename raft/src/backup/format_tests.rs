//! The file of a backup: what was written is read, and nothing else is taken for it.

use super::*;
use crate::backup::verify;

fn header() -> Header {
    let cut = |group: GroupId| Cut {
        group: group.0,
        index: 100 + u64::from(group.0),
        term: 3,
        leader: 2,
    };
    Header {
        cluster_id: "93f7".to_owned(),
        incarnation: 2,
        node_id: 1,
        version: "0.1.0".to_owned(),
        at: UnixMs(1_000),
        cuts: all(Sharing::NONE).map(cut).collect(),
    }
}

/// The state of a group: none for the first, more than a block for the second, some for the rest.
fn state(group: u16) -> Vec<u8> {
    let length = match group {
        0 => 0,
        1 => BLOCK_BYTES + BLOCK_BYTES / 2,
        2 => BLOCK_BYTES,
        group => 100 * usize::from(group),
    };
    (0..length)
        .map(|at| (at * 31 + usize::from(group)) as u8)
        .collect()
}

fn whole() -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), &header()).expect("memory takes it");
    for group in all(Sharing::NONE) {
        writer.write_all(&state(group.0)).expect("memory takes it");
        writer.end_group().expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

fn refused(bytes: &[u8]) -> BackupError {
    verify(bytes, |_, _| ()).expect_err("it is not what was written")
}

#[test]
fn what_was_written_is_read() {
    let bytes = whole();
    let mut reader = Reader::begin(&bytes[..]).expect("a backup");
    assert_eq!(*reader.header(), header());
    let mut read = 0;
    while let Some(cut) = reader.next_group().expect("a whole backup") {
        let mut found = Vec::new();
        reader.read_to_end(&mut found).expect("a whole group");
        assert!(found == state(cut.group), "group {}", cut.group);
        assert_eq!(
            reader.skip_group().expect("it was read"),
            found.len() as u64
        );
        read += 1;
    }
    assert_eq!(read, header().cuts.len());
}

#[test]
fn a_group_that_is_not_read_is_checked_all_the_same() {
    let bytes = whole();
    let mut sizes = Vec::new();
    let found = verify(&bytes[..], |bytes, groups| sizes.push((bytes, groups)));
    assert_eq!(found.expect("a whole backup"), header());
    let expected =
        all(Sharing::NONE).map(|group| (state(group.0).len() as u64, header().cuts.len()));
    assert_eq!(sizes, expected.collect::<Vec<_>>());
}

#[test]
fn a_file_cut_anywhere_is_refused_as_cut() {
    let bytes = whole();
    let ends = (0..bytes.len())
        .step_by(1000)
        .chain(bytes.len() - 40..bytes.len());
    for end in ends {
        let error = refused(&bytes[..end]);
        let BackupError::CutShort { bytes: told } = error else {
            panic!("cut at {end}: {error}");
        };
        assert!(told <= end as u64, "cut at {end}, told {told}");
    }
}

#[test]
fn a_byte_changed_anywhere_is_noticed() {
    let whole = whole();
    let places = (0..600)
        .chain((600..whole.len()).step_by(97))
        .chain(whole.len() - 60..whole.len());
    for at in places {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            // Which refusal it is depends on the place; that there is one does not.
            refused(&bytes);
        }
    }
}

#[test]
fn frames_in_another_order_are_noticed() {
    let bytes = whole();
    let sized = |payload: usize| FRAME_BYTES + payload + 4;
    // The two blocks of the second group stand behind the end of the first.
    let first = bytes
        .windows(64)
        .position(|window| window == &state(1)[..64])
        .expect("the second group's first block")
        - FRAME_BYTES;
    let second = first + sized(BLOCK_BYTES);
    let after = second + sized(BLOCK_BYTES / 2);
    let swapped = [
        &bytes[..first],
        &bytes[second..after],
        &bytes[first..second],
        &bytes[after..],
    ];
    assert!(matches!(
        refused(&swapped.concat()),
        BackupError::Damaged { .. }
    ));
    let lost = [&bytes[..first], &bytes[second..]];
    assert!(matches!(
        refused(&lost.concat()),
        BackupError::Damaged { .. }
    ));
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut bytes = whole();
    bytes.push(0);
    assert!(refused(&bytes).to_string().contains("after its end"));
}

#[test]
fn another_file_and_a_newer_version_are_told_apart_from_damage() {
    assert!(matches!(refused(&[b'x'; 100]), BackupError::NotABackup));
    let mut newer = whole();
    newer[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let error = refused(&newer);
    assert!(
        matches!(error, BackupError::Newer { found } if found == VERSION + 1),
        "{error}"
    );
}

#[test]
fn a_header_without_some_group_is_refused() {
    let mut partial = header();
    partial.cuts.remove(3);
    let writer = Writer::begin(Vec::new(), &partial).expect("memory takes it");
    let bytes = writer.finish().expect("memory takes it");
    assert!(refused(&bytes).to_string().contains("every group"));
}
