//! Ids, shard numbers and times: the newtypes that keep one kind of string or number from being
//! taken for another. Every id is 1–64 bytes of `[A-Za-z0-9._:-]`, checked when it is made.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::ID_BYTES_MAX;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("must not be empty: an id is 1 to {ID_BYTES_MAX} bytes of A-Z a-z 0-9 . _ : -")]
    Empty,
    /// The text is too long; `bytes` is its length.
    #[error("is {bytes} bytes long: an id is at most {ID_BYTES_MAX} bytes")]
    TooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// A byte outside the alphabet, at this offset.
    #[error("has a byte that ids do not allow at offset {offset}: allowed are A-Z a-z 0-9 . _ : -")]
    OddByte {
        /// Offset of the first such byte.
        offset: usize,
    },
}

/// Whether ids allow a byte.
const ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'-');
        byte += 1;
    }
    allowed
};

/// Checks that `text` is an id.
pub fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong { bytes: text.len() });
    }
    match allowed_bytes(text) {
        offset if offset < text.len() => Err(IdError::OddByte { offset }),
        _ => Ok(()),
    }
}

/// How many bytes there are before the first that ids do not allow.
fn allowed_bytes(text: &str) -> usize {
    let odd = |byte| !ALLOWED[usize::from(byte)];
    text.bytes().position(odd).unwrap_or(text.len())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(CompactString);

        impl $name {
            /// Checks `text` and takes it as an id.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_id(text)?;
                Ok(Self(CompactString::new(text)))
            }

            /// The id that `text` begins with, which ends where a byte follows that ids do not allow, and what follows it.
            pub fn at_start_of(text: &str) -> Option<(Self, &str)> {
                let (id, rest) = text.split_at_checked(allowed_bytes(text))?;
                let is_one = !id.is_empty() && id.len() <= ID_BYTES_MAX;
                is_one.then(|| (Self(CompactString::new(id)), rest))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The id as bytes.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = CompactString::deserialize(deserializer)?;
                check_id(&text).map_err(serde::de::Error::custom)?;
                Ok(Self(text))
            }
        }
    };
}

text_id! {
    /// Names one promotion: one flash sale of some SKUs.
    PromotionId
}
text_id! {
    /// Names one order; an order grabs at most once.
    OrderId
}
text_id! {
    /// Names a buyer's account.
    Pin
}

impl OrderId {
    /// The id of bytes that were checked when they were stored.
    pub(crate) fn from_stored(bytes: &[u8]) -> Self {
        Self(CompactString::from_utf8_lossy(bytes))
    }
}

impl Pin {
    /// The id of bytes that were checked when they were stored.
    pub(crate) fn from_stored(bytes: &[u8]) -> Self {
        Self(CompactString::from_utf8_lossy(bytes))
    }
}

/// Number of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A shard's place among those that share its log, from 0: what names it within the log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Place(pub u8);

impl Place {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A nonce of the node that coordinates a cart: names one attempt at one order over several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TryId(pub u64);

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This time plus `ms` milliseconds, at the latest the end of time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; 0 if it is not earlier.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
