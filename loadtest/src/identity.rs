//! The names a run gives to its promotions, orders and buyers.
//!
//! Invariant: every name is a function of the run and a number and can be read back, so that no name is ever stored: the
//! audit of ten million orders needs ten million bytes.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Digits of a run's name: 36⁷ milliseconds are two and a half years, after which names could come again.
const DIGITS: usize = 7;

/// The base of a run's name: digits and small letters.
const BASE: u64 = 36;

/// What all names of a run begin with, so that runs against one cluster never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunId([u8; DIGITS]);

impl RunId {
    /// A run that begins now. Two runs that begin within one millisecond on two machines would share a name; their
    /// promotions then exist already, and the second one stops before its first order.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        // The number of the process keeps runs apart that one machine begins at once.
        let mixed = millis.wrapping_add(u128::from(std::process::id()) * 7919);
        Self::from_number(mixed as u64)
    }

    fn from_number(mut number: u64) -> Self {
        let mut name = [0; DIGITS];
        for digit in name.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % BASE) as usize];
            number /= BASE;
        }
        Self(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits and letters are text")
    }

    /// Appends the name of promotion number `promotion`: `RUN-pNUMBER`.
    pub fn push_promotion(&self, promotion: u32, out: &mut Vec<u8>) {
        self.push(b"-p", u64::from(promotion), out);
    }

    /// Appends the name of order number `order`: `RUN-NUMBER`.
    pub fn push_order(&self, order: u64, out: &mut Vec<u8>) {
        self.push(b"-", order, out);
    }

    fn push(self, between: &[u8], number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        out.extend_from_slice(between);
        push_number(number, out);
    }

    /// The name of a promotion.
    pub fn promotion(&self, promotion: u32) -> String {
        format!("{self}-p{promotion}")
    }

    /// The name of an order.
    pub fn order(&self, order: u64) -> String {
        format!("{self}-{order}")
    }

    /// The number of a promotion of this run; `None` for any other name.
    pub fn parse_promotion(&self, name: &str) -> Option<u32> {
        number(self.own(name)?.strip_prefix('p')?)
    }

    /// The number of an order of this run; `None` for any other name.
    pub fn parse_order(&self, name: &str) -> Option<u64> {
        number(self.own(name)?)
    }

    fn own(self, name: &str) -> Option<&str> {
        name.strip_prefix(self.as_str())?.strip_prefix('-')
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Appends the buyer of order number `order`: each order is somebody else's.
pub fn push_pin(order: u64, out: &mut Vec<u8>) {
    out.push(b'b');
    push_number(order, out);
}

/// Appends a number in decimal.
pub fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A number as [`push_number`] writes it: leading zeros would give one order two names.
fn number<N: FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_read_back_as_their_numbers() {
        let run = RunId::from_number(123_456_789);
        for number in [0, 7, 10_000_000_000] {
            let name = written(|out| run.push_order(number, out));
            assert_eq!(name, run.order(number));
            assert_eq!(run.parse_order(&name), Some(number));
        }
        let name = written(|out| run.push_promotion(999, out));
        assert_eq!(name, run.promotion(999));
        assert_eq!(run.parse_promotion(&name), Some(999));
    }

    #[test]
    fn other_names_are_nobody() {
        let run = RunId::from_number(5);
        let other = RunId::from_number(6);
        assert_eq!(run.parse_order(&other.order(1)), None);
        assert_eq!(run.parse_order(&run.promotion(1)), None);
        assert_eq!(run.parse_promotion(&run.order(1)), None);
        for name in [
            "",
            "o-1",
            "0000005-",
            "0000005-01",
            "0000005-+1",
            "0000005-x",
        ] {
            assert_eq!(run.parse_order(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_name_has_always_as_many_digits() {
        assert_eq!(RunId::from_number(5).as_str(), "0000005");
        assert_eq!(RunId::from_number(u64::MAX).as_str().len(), DIGITS);
        assert_eq!(RunId::now().as_str().len(), DIGITS);
    }
}
