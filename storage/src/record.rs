//! How keys and values look on disk. Invariant: every value begins with a checksum over its key and its payload, so a value that
//! was damaged, cut, or stored under another key does not pass for one.

use std::fmt;
use std::fmt::Write as _;

/// Groups are numbered below this: sixteen shards and the meta group. Each has a column family from the
/// creation of the directory on.
pub const GROUPS_MAX: u16 = 17;

/// A Raft group: 0 to 15 are the shards, 16 is the meta group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u16);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The pieces of state kept beside a group's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The first flow physically present: index.
    First = 1,
    /// The last purged entry: index and marker.
    Floor = 2,
    /// The last saved vote: opaque.
    Vote = 3,
    /// The last saved committed entry: index and marker.
    Committed = 4,
    /// Indexes that were never written here because a snapshot took their place: the key carries the first, the value the last.
    Gap = 5,
    /// How far the group had come when it left this node: opaque.
    Tombstone = 6,
}

impl Kind {
    /// The name used in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first index",
            Self::Floor => "floor",
            Self::Vote => "vote",
            Self::Committed => "committed index",
            Self::Gap => "gap list",
            Self::Tombstone => "tombstone",
        }
    }
}

/// Bytes of checksum before every payload.
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// `(group, index)`, big-endian, so that a group's entries lie together in order.
pub(crate) fn log_key(group: GroupId, index: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&group.0.to_be_bytes());
    key[2..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The group and index of a log key, `None` if it is none.
pub(crate) fn parse_log_key(key: &[u8]) -> Option<(GroupId, u64)> {
    let (group, index) = key.split_first_chunk::<2>()?;
    let index: [u8; 8] = index.try_into().ok()?;
    Some((
        GroupId(u16::from_be_bytes(*group)),
        u64::from_be_bytes(index),
    ))
}

/// `(group, kind)`; a gap's key goes on with the gap's first index.
pub(crate) fn meta_key(group: GroupId, kind: Kind) -> [u8; 3] {
    let [a, b] = group.0.to_be_bytes();
    [a, b, kind as u8]
}

/// The group and the number of the kind of a key beside the log, `None` if it is of no group.
pub(crate) fn parse_meta_key(key: &[u8]) -> Option<(GroupId, u8)> {
    let (group, rest) = key.split_first_chunk::<2>()?;
    Some((GroupId(u16::from_be_bytes(*group)), *rest.first()?))
}

/// The key of a gap that begins at `first`.
pub(crate) fn gap_key(group: GroupId, first: u64) -> [u8; 11] {
    let mut key = [0; 11];
    key[..3].copy_from_slice(&meta_key(group, Kind::Gap));
    key[3..].copy_from_slice(&first.to_be_bytes());
    key
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), payload)
}

/// Writes the stored form of `payload` into `out`, which is emptied first: one scratch buffer serves all entries.
pub(crate) fn seal_into(out: &mut Vec<u8>, key: &[u8], payload: &[u8]) {
    out.clear();
    out.extend_from_slice(&checksum(key, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of a stored value.
///
/// # Errors
/// What is wrong with it, for a message.
pub(crate) fn open<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((expected, payload)) = stored.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err(format!(
            "the value has {} bytes, fewer than its checksum",
            stored.len()
        ));
    };
    let expected = u32::from_le_bytes(*expected);
    let found = checksum(key, payload);
    if found == expected {
        Ok(payload)
    } else {
        Err(format!(
            "checksum {found:08x} does not match the stored {expected:08x}"
        ))
    }
}

/// An index followed by opaque bytes, the form of floors and committed indexes.
pub(crate) fn index_and_marker(index: u64, marker: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + marker.len());
    payload.extend_from_slice(&index.to_be_bytes());
    payload.extend_from_slice(marker);
    payload
}

/// Takes [`index_and_marker`] apart.
pub(crate) fn parse_index_and_marker(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (index, marker) = payload.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), marker))
}

/// Bytes as RocksDB's tools write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("0x"), |mut text, byte| {
        write!(text, "{byte:02X}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_group_then_index() {
        let keys = [
            (0, 0),
            (0, 1),
            (0, 256),
            (0, u64::MAX),
            (1, 0),
            (16, 5),
            (256, 0),
        ];
        let encoded: Vec<_> = keys
            .iter()
            .map(|&(group, index)| log_key(GroupId(group), index))
            .collect();
        assert!(encoded.is_sorted());
        for (key, (group, index)) in encoded.iter().zip(keys) {
            assert_eq!(parse_log_key(key), Some((GroupId(group), index)));
        }
        assert_eq!(parse_log_key(&[0; 9]), None);
    }

    #[test]
    fn a_value_is_bound_to_its_key_and_to_every_bit() {
        let key = log_key(GroupId(3), 7);
        let mut stored = Vec::new();
        seal_into(&mut stored, &key, b"payload");
        assert_eq!(open(&key, &stored), Ok(&b"payload"[..]));
        assert!(open(&log_key(GroupId(3), 8), &stored).is_err());
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key, &damaged).is_err(), "bit {bit}");
        }
        assert!(open(&key, &stored[..3]).is_err());
        assert_eq!(hex(&key), "0x00030000000000000007");
    }
}
