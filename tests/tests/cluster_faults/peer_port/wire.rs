//! The peers' protocol 6, written down a second time: what a test sends is not made by the code that is tested.
//!
//! A frame is `[length u32][crc32c u32][body]`, little-endian, its body messages of `[id u64][kind u8][length u32][payload]`.
//! A payload is a version byte and a value in bincode 2 with variable-length integers.

use qiang_tests::Cluster;

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    Control = 1,
    Recovery = 4,
}

/// What whoever connects says first.
#[derive(Debug, Clone)]
pub struct Hello {
    pub protocol: u16,
    pub cluster_id: String,
    pub incarnation: u64,
    pub node_id: u64,
    pub to: Option<u64>,
    pub lane: Lane,
}

impl Hello {
    /// What a member of the cluster, of this number, would say.
    pub fn of(cluster: &Cluster, node_id: u64) -> Self {
        let shown = cluster.any().get("/v1/cluster").expect(200);
        Self {
            protocol: 6,
            cluster_id: shown["cluster_id"].as_str().expect("a text").to_owned(),
            incarnation: shown["incarnation"].as_u64().expect("a number"),
            node_id,
            to: None,
            lane: Lane::Control,
        }
    }

    /// The value with its version byte.
    pub fn encoded(&self) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend(b"QIANG");
        bytes.push(short(u64::from(self.protocol)));
        bytes.push(short(self.cluster_id.len() as u64));
        bytes.extend(self.cluster_id.bytes());
        bytes.extend([short(self.incarnation), short(self.node_id)]);
        match self.to {
            None => bytes.push(0),
            Some(to) => bytes.extend([1, short(to)]),
        }
        bytes.push(self.lane as u8);
        bytes
    }

    /// The same as one frame.
    pub fn framed(&self) -> Vec<u8> {
        frame(&message(0, 0, &self.encoded()))
    }
}

/// An integer of one byte.
fn short(value: u64) -> u8 {
    let byte = u8::try_from(value).expect("a small number");
    assert!(byte <= 250, "larger ones take more bytes");
    byte
}

pub fn message(id: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short payloads");
    let head = [&id.to_le_bytes()[..], &[kind], &length.to_le_bytes()].concat();
    [&head, payload].concat()
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short bodies");
    [&length.to_le_bytes()[..], &crc32c(body).to_le_bytes(), body].concat()
}

/// The head of a frame of so many bytes, and a few of them.
pub fn frame_of_length(bytes: u32) -> Vec<u8> {
    [&bytes.to_le_bytes()[..], &[0; 64]].concat()
}

/// A frame of which the last bit was turned over on the way.
pub fn spoiled(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().expect("a frame has bytes") ^= 1;
    frame
}

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let turned = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    let taken = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| turned(crc));
    !bytes.iter().fold(!0, taken)
}

#[test]
fn the_checksum_is_that_of_the_published_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}
