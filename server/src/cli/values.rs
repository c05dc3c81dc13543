//! Values of flags that are more than a number or a text: items, times, yes or no.
//!
//! Invariant: what the node would refuse for its form is refused here already, with the same words for ids.

use std::io::{BufRead, IsTerminal, Write};
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use qiang_engine::PromotionId;
use serde_json::{Value, json};

use super::Failure;

/// Units of a promotion, written `A:2`, or `A` for one. Ids may have colons: the last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemArg {
    promotion_id: PromotionId,
    quantity: u64,
}

impl ItemArg {
    /// The item as the contract writes it.
    pub(crate) fn to_json(&self) -> Value {
        json!({"promotion_id": self.promotion_id.as_str(), "quantity": self.quantity})
    }
}

impl FromStr for ItemArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, quantity) = match text.rsplit_once(':') {
            Some((id, quantity)) => {
                let quantity = quantity.parse().map_err(|_| {
                    format!("{quantity:?} is no quantity: write PROMOTION:QUANTITY, such as A:2")
                })?;
                (id, quantity)
            }
            None => (text, 1),
        };
        let promotion_id =
            PromotionId::new(id).map_err(|error| format!("the promotion id {error}"))?;
        if quantity == 0 {
            return Err("the quantity must be at least 1".to_owned());
        }
        Ok(Self {
            promotion_id,
            quantity,
        })
    }
}

/// A time: RFC 3339, or `+10m` for that long from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeArg(Timestamp);

impl TimeArg {
    /// The time as the contract writes it.
    pub(crate) fn to_json(self) -> Value {
        Value::String(format!("{:.3}", self.0))
    }

    fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let wrong = |error: jiff::Error| {
            format!("{error}; write 2026-06-18T00:00:00Z, or +10m for ten minutes from now")
        };
        match text.strip_prefix('+') {
            Some(later) => {
                let later: SignedDuration = later.parse().map_err(wrong)?;
                now.checked_add(later).map(Self).map_err(wrong)
            }
            None => text.parse().map(Self).map_err(wrong),
        }
    }
}

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Timestamp::now())
    }
}

/// A limit that can be lifted: a number, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitArg(Option<u32>);

impl LimitArg {
    /// The limit, if there is one.
    pub(crate) fn units(self) -> Option<u32> {
        self.0
    }
}

impl FromStr for LimitArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => match number.parse() {
                Ok(0) => Err("a limit is at least 1; `none` lifts it".to_owned()),
                Ok(units) => Ok(Self(Some(units))),
                Err(_) => Err(format!(
                    "{number:?} is neither a number of units nor `none`"
                )),
            },
        }
    }
}

/// Whether to ask before something that cannot be taken back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// `--yes`: the answer is given already.
    pub yes: bool,
}

impl Ask {
    /// Asks, unless the answer is given already. Without a terminal nobody can be asked.
    pub(crate) fn confirm(self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage(format!(
                "{question} There is no terminal to ask on: add --yes to go ahead"
            )));
        }
        let mut stderr = std::io::stderr();
        // Nobody may read stderr; then the answer is what is typed, or no.
        let _ = write!(stderr, "{question} [y/N] ");
        let _ = stderr.flush();
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::Usage(
                "not done: the answer was not yes".to_owned(),
            )),
        }
    }
}

/// A text as one segment or value of a URL.
pub(crate) fn in_url(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-' | b'~') {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path with the query parameters that are present.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            out.push(mark);
            out.push_str(name);
            out.push('=');
            out.push_str(&in_url(value));
            mark = '&';
        }
    }
    out
}

/// Reads a JSON document from a file, or from stdin for `-`.
pub(crate) fn read_json(path: &std::path::Path) -> Result<Value, Failure> {
    let (name, text) = if path.as_os_str() == "-" {
        (
            "stdin".to_owned(),
            std::io::read_to_string(std::io::stdin()),
        )
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    let text = text.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{name} is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_a_promotion_and_a_quantity() {
        let item = |text: &str| text.parse::<ItemArg>().map(|item| item.to_json());
        assert_eq!(item("A:2"), Ok(json!({"promotion_id": "A", "quantity": 2})));
        assert_eq!(item("A"), Ok(json!({"promotion_id": "A", "quantity": 1})));
        assert_eq!(
            item("shop:A:3"),
            Ok(json!({"promotion_id": "shop:A", "quantity": 3}))
        );
        for wrong in ["", ":1", "A:", "A:x", "A:-1", "A:0", "A B:1", "A:1.5"] {
            assert!(item(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_time_is_absolute_or_counted_from_now() {
        let now: Timestamp = "2026-06-18T00:00:00Z".parse().unwrap();
        let time = |text: &str| TimeArg::parse(text, now).map(TimeArg::to_json);
        assert_eq!(
            time("2026-06-18T08:00:00+08:00"),
            Ok(json!("2026-06-18T00:00:00.000Z"))
        );
        assert_eq!(time("+10m"), Ok(json!("2026-06-18T00:10:00.000Z")));
        assert_eq!(time("+1h30m"), Ok(json!("2026-06-18T01:30:00.000Z")));
        for wrong in [
            "",
            "+",
            "+ten",
            "soon",
            "2026-06-18",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(time(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!("2".parse(), Ok(LimitArg(Some(2))));
        assert_eq!("none".parse(), Ok(LimitArg(None)));
        for wrong in ["", "0", "-1", "all"] {
            assert!(wrong.parse::<LimitArg>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_query_has_only_what_was_given_and_escapes_it() {
        let path = with_query(
            "/v1/x",
            &[
                ("a", None),
                ("b", Some("1 2&c".into())),
                ("d", Some("A:1".into())),
            ],
        );
        assert_eq!(path, "/v1/x?b=1%202%26c&d=A:1");
        assert_eq!(with_query("/v1/x", &[("a", None)]), "/v1/x");
    }
}
