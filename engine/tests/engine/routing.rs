//! Where promotions live: the hash against vectors that this code had no part in, and its spread.

use qiang_engine::PromotionId;
use qiang_engine::routing::{SHARDS, murmur_hash_64a, shard_of};

/// The seed that Jedis uses.
const SEED: u64 = 0x1234_ABCD;

/// Text, hash and shard. Printed by the Java method that Jedis shards keys by,
/// `redis.clients.jedis.util.MurmurHash.hash64A(bytes, 0x1234ABCD)` (OpenJDK 17): lengths 0 to 17,
/// 31, 63 and 64, then ids as people write them.
const FROM_JEDIS: [(&str, u64, u16); 31] = [
    ("", 0x742d_0865_aa62_7b0b, 11),
    ("p", 0x564c_f4a2_22f4_e6af, 15),
    ("pr", 0x101f_5278_0883_f748, 8),
    ("pro", 0x9572_d0b3_7c08_9016, 6),
    ("prom", 0x7061_919b_06f8_bb08, 8),
    ("promo", 0xb251_944d_97fd_f62d, 13),
    ("promot", 0xa8db_7659_e995_8826, 6),
    ("promoti", 0x8d9f_b932_5f1e_6e3e, 14),
    ("promotio", 0xcd27_195f_bde6_922d, 13),
    ("promotion", 0x0973_15b6_1a75_6148, 8),
    ("promotion:", 0xde47_d5dd_ebbe_145b, 11),
    ("promotion:1", 0xfed2_969e_fa1c_545c, 12),
    ("promotion:10", 0x7118_f02c_95e7_cd87, 7),
    ("promotion:100", 0xa0db_cf1e_42c1_62e3, 3),
    ("promotion:1000", 0x0f0e_68f1_39d8_da6c, 12),
    ("promotion:10001", 0xb513_86f3_34c0_69b4, 4),
    ("promotion:100012", 0xcafc_ac7c_cb6a_b7e8, 8),
    ("promotion:1000120", 0x0221_e7b6_6611_f391, 1),
    ("promotion:100012043978.618_A-b_", 0xc620_74ef_afd3_5688, 8),
    (
        "promotion:100012043978.618_A-b_c-and-more.for:64.bytes_of_an-id",
        0xbbb2_dc53_af3e_9b2a,
        10,
    ),
    (
        "promotion:100012043978.618_A-b_c-and-more.for:64.bytes_of_an-id0",
        0xe91b_a020_93e4_6595,
        5,
    ),
    ("A", 0x012d_44af_7466_4564, 4),
    ("B", 0xdaed_2419_79bb_7f34, 4),
    ("C", 0x6203_d9da_fe85_d4b5, 5),
    ("D", 0xa07f_d399_8f7e_e6b8, 8),
    ("sku-1", 0x5fd8_70a3_608a_be66, 6),
    ("promo-0001", 0x42a3_4935_f789_4244, 4),
    ("promo-0002", 0x4f03_2f04_379c_3777, 7),
    ("C_100012043978_1", 0x80c4_fd82_1904_a55d, 13),
    ("618.phone_500:app", 0xea45_8383_80ae_f9a3, 3),
    ("a.b_c:d-e", 0x9095_2f92_5b63_4e65, 5),
];

#[test]
fn hashes_are_those_of_jedis() {
    for (text, hash, shard) in FROM_JEDIS {
        assert_eq!(
            murmur_hash_64a(text.as_bytes(), SEED),
            hash,
            "hash of {text:?}"
        );
        if let Ok(promotion_id) = PromotionId::new(text) {
            assert_eq!(shard_of(&promotion_id).0, shard, "shard of {text:?}");
        }
    }
}

/// The verification of SMHasher, by the hash's author: the hashes of the keys {}, {0}, {0,1}, … up to
/// 255 bytes, each with seed 256 − length, are hashed once more with seed 0. He published the low 32
/// bits of that as 0x1F0D3804 for MurmurHash64A.
#[test]
fn the_authors_verification_value_is_reached() {
    let bytes: Vec<u8> = (0..=255).collect();
    let hashes: Vec<u8> = (0..256usize)
        .flat_map(|length| murmur_hash_64a(&bytes[..length], 256 - length as u64).to_le_bytes())
        .collect();
    assert_eq!(murmur_hash_64a(&hashes, 0) & 0xffff_ffff, 0x1f0d_3804);
}

#[test]
fn a_hundred_thousand_ids_spread_evenly_over_the_shards() {
    const IDS: u32 = 100_000;
    let mut found = [0u32; SHARDS as usize];
    for number in 0..IDS {
        let promotion_id = PromotionId::new(&format!("promo-{number}")).unwrap();
        found[usize::from(shard_of(&promotion_id).0)] += 1;
    }
    // 6,250 each are expected with a standard deviation of 77; five of those either way.
    let expected = IDS / u32::from(SHARDS);
    for (shard, count) in found.into_iter().enumerate() {
        assert!(
            count.abs_diff(expected) < 385,
            "shard {shard} has {count} of {expected} ids"
        );
    }
}
