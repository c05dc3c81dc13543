//! The one place where values become bytes and back. Every encoding starts with a version byte, so
//! that the encoding behind it can be replaced without touching a caller.
//!
//! Invariant: bytes written by any released version decode to the same value for ever; the golden
//! files under `engine/tests/golden` hold one of each.

use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version written today: bincode 2, little-endian, variable-length integers.
pub const VERSION: u8 = 1;

/// Why bytes could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes at all.
    #[error("nothing to decode: the value is empty")]
    Empty,
    /// Written by a newer version of qiang.
    #[error(
        "encoding version {found} is newer than {VERSION}, the newest this binary knows: use a newer binary"
    )]
    Newer {
        /// The version byte found.
        found: u8,
    },
    /// Not a value of this type.
    #[error("the bytes are not a value of the expected type: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// Bytes are left over behind the value.
    #[error("{bytes} bytes are left over behind the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
}

/// Where encoded bytes go.
struct Out<'a>(&'a mut Vec<u8>);

impl Writer for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends `value` to `out`, without a version byte: for values inside an encoding that has one.
pub fn put<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_writer(value, Out(out), config())
        .expect("writing to memory does not fail, and no stored type has a map of unknown length");
}

/// Takes one value off the front of `bytes`: the inverse of [`put`].
pub fn take<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())?;
    *bytes = &bytes[used..];
    Ok(value)
}

/// Encodes `value` behind a version byte.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(value, &mut out);
    out
}

/// Decodes what [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = check_version(bytes)?;
    let value = take(&mut rest)?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { bytes: rest.len() });
    }
    Ok(value)
}

/// Checks the version byte and returns what is behind it.
pub fn check_version(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, rest)) => Ok(rest),
        Some((&found, _)) => Err(DecodeError::Newer { found }),
    }
}
