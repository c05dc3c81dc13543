//! The bounds of the engine, each with its unit and its reason; relations between them are asserted.

use crate::routing::SHARDS;

/// Longest id in bytes: order, promotion and pin ids, and sku ids (the public contract).
pub const ID_BYTES_MAX: usize = 64;

/// Most items in one grab, counted before the same promotion is summed (the public contract).
pub const ITEMS_MAX: usize = 32;

/// Most units in one item, one promotion or one change of quantity. 2³¹ fits every client's
/// integer and leaves room to add two of them without overflow.
pub const QUANTITY_MAX: u64 = 1 << 31;

/// Longest title in bytes; titles are shown, never searched.
pub const TITLE_BYTES_MAX: usize = 512;

/// Most sku ids of one promotion.
pub const SKUS_MAX: usize = 1024;

/// Longest payment timeout: 30 days in milliseconds. It must fit the 32 bits an order keeps for it.
pub const PAYMENT_TIMEOUT_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// The payment timeout of a promotion that names none: 20 minutes, in milliseconds.
pub const PAYMENT_TIMEOUT_MS_DEFAULT: u64 = 20 * 60_000;

/// Longest rate window: one day in milliseconds.
pub const WINDOW_MS_MAX: u64 = 24 * 3_600_000;

/// The rate window in which attempts are counted where no rate is configured, in milliseconds.
pub const WINDOW_MS_DEFAULT: u64 = 60_000;

/// Latest time accepted anywhere, in milliseconds of Unix time: the start of the year 2500. Times
/// are kept in 48 bits, which last until the year 10889.
pub const TIME_MS_MAX: u64 = 16_725_225_600_000;

/// How long an undone try's nonce is remembered, so that its late twin is refused, in milliseconds.
pub const UNDONE_TRY_MS: u64 = 60_000;

/// Longest time units are set aside for a cart that is not sealed, in milliseconds by the shard's own clock: a
/// coordinator whose clock is ahead must not hold them for as much longer.
pub const TENTATIVE_MS_MAX: u64 = 5_000;

// A twin that comes when its nonce is forgotten is past the deadline under which units are set aside.
const _: () = assert!(TENTATIVE_MS_MAX < UNDONE_TRY_MS);

/// Most orders one shard holds: texts are addressed by 26 bits per length class.
pub const ORDERS_MAX: usize = 1 << 26;

/// Width of one deadline bucket, as a power of two of milliseconds: 64 ms. An order is at most this
/// much later than its deadline before the sweep sees it.
pub const DEADLINE_BUCKET_MS_LOG2: u32 = 6;

/// Orders expired in one turn of the actor that also serves commands, so that a million deadlines in
/// one second do not keep grabs waiting behind them.
pub const EXPIRE_BITE: usize = 1024;

/// Orders expired in one turn with nothing else to do. It takes some milliseconds, which is what a
/// command that comes meanwhile may wait.
pub const EXPIRE_BITE_IDLE: usize = 6144;

/// Order slots looked at for forgetting in one tick.
pub const FORGET_SCAN_BITE: usize = 2048;

/// Orders forgotten by one record.
pub const FORGET_BITE: usize = 256;

/// Records between two checkpoints of the digest.
pub const CHECKPOINT_RECORDS: u64 = 10_000;

/// Entries a leader may have proposed and not yet seen committed, per log. While this many are
/// on their way the mailbox gathers, so batches grow with load by themselves.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Records on their way, per log, beside which a further entry is begun for whatever waits. Beside more it waits until it
/// would hold half as many.
pub const RECORDS_ON_THEIR_WAY_FEW: usize = 8;

/// Records that commands may add to one entry: a bound on the time one turn takes.
pub const BATCH_RECORDS_MAX: usize = 8_192;

/// Records in one entry at most: of commands, of deadlines, and of each shard ends of promotions, what is forgotten and a
/// checkpoint.
pub const ENTRY_RECORDS_MAX: usize =
    BATCH_RECORDS_MAX + EXPIRE_BITE_IDLE + SHARDS as usize * (FORGET_BITE + 2);

/// How long a courier waits for an acknowledgement before it tells or asks again, in milliseconds.
pub const COURIER_RETRY_MS: u64 = 500;

const _: () = assert!(PAYMENT_TIMEOUT_MS_MAX < u32::MAX as u64);
const _: () = assert!(QUANTITY_MAX * ITEMS_MAX as u64 <= u64::MAX / 4);
const _: () = assert!(TIME_MS_MAX + PAYMENT_TIMEOUT_MS_MAX < 1 << 48);
