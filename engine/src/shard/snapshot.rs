//! A shard as bytes: promotions, orders and nonces in blocks of bounded size, behind the counts and
//! the digest that loading must arrive at.

use std::io::{Read, Write};

use super::{ApplyError, Shard};
use crate::codec;
use crate::ids::{TryId, UnixMs};
use crate::limits::{ID_BYTES_MAX, SKUS_MAX, TITLE_BYTES_MAX};
use crate::order::Order;
use crate::promotion::Promotion;
use crate::replica::{BLOCK_BYTES_MAX, LoadError, read_block, write_block};

/// Orders, or nonces, of one block.
const BLOCK_ITEMS: usize = 1024;

/// Promotions of one block. One has up to 1,024 sku ids of 64 bytes, twice: as created and as changed.
const BLOCK_PROMOTIONS: usize = 128;

const _: () = assert!(
    BLOCK_PROMOTIONS * 2 * (SKUS_MAX * (ID_BYTES_MAX + 2) + TITLE_BYTES_MAX + 256)
        < BLOCK_BYTES_MAX as usize
);

impl Shard {
    /// Writes the state.
    pub fn save(&self, out: &mut impl Write) -> std::io::Result<()> {
        let tries = self.undone_tries();
        let counts = (
            self.promotions.len() as u64,
            self.orders.len() as u64,
            tries.len() as u64,
        );
        write_block(out, &codec::encode(&(counts, self.digest)))?;
        for block in self.promotions.chunks(BLOCK_PROMOTIONS) {
            write_block(out, &codec::encode(&block))?;
        }
        let mut orders = self.orders();
        loop {
            let block: Vec<Order> = orders.by_ref().take(BLOCK_ITEMS).collect();
            if block.is_empty() {
                break;
            }
            write_block(out, &codec::encode(&block))?;
        }
        for block in tries.chunks(BLOCK_ITEMS) {
            write_block(out, &codec::encode(&block))?;
        }
        Ok(())
    }

    /// Reads what [`Shard::save`] wrote and checks that it arrives at the same digest.
    pub fn load(input: &mut impl Read, hash_seed: u64) -> Result<Self, LoadError> {
        type Head = ((u64, u64, u64), u64);
        let ((promotions, orders, tries), recorded): Head = codec::decode(&read_block(input)?)?;
        let mut shard = Shard::new(hash_seed);
        read_blocks(input, promotions, |promotion: Promotion| {
            shard.put_promotion(&promotion)
        })?;
        read_blocks(input, orders, |order: Order| shard.restore_order(&order))?;
        read_blocks(input, tries, |(try_id, at): (TryId, UnixMs)| {
            shard
                .undone
                .insert(try_id, at)
                .map_or(Ok(()), |_| Err(ApplyError::WrongTry(try_id)))
        })?;
        if shard.digest != recorded {
            return Err(ApplyError::Diverged {
                here: shard.digest,
                recorded,
            }
            .into());
        }
        // What is loaded is no change.
        shard.forget_touched();
        Ok(shard)
    }
}

/// Reads blocks until `count` items have come and hands each to `put`.
fn read_blocks<T: serde::de::DeserializeOwned>(
    input: &mut impl Read,
    count: u64,
    mut put: impl FnMut(T) -> Result<(), ApplyError>,
) -> Result<(), LoadError> {
    let mut left = count;
    while left > 0 {
        let items: Vec<T> = codec::decode(&read_block(input)?)?;
        left = left.saturating_sub(items.len() as u64);
        if items.is_empty() {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        for item in items {
            put(item)?;
        }
    }
    Ok(())
}
