//! Reading JSON strictly: whatever is given and not understood is refused and named.
//!
//! Invariant: a body that is taken has every member that is required, none that is unknown, none twice, and no value
//! out of its bounds; a refusal names the member by its path, such as `items[0].quantity`.

use std::fmt;
use std::marker::PhantomData;

use qiang_engine::UnixMs;
use qiang_engine::promotion::Channel;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::error::Category;

use super::problem::Problem;
use super::time::parse_time;

/// Reads `bytes` as one JSON value of type `T`.
///
/// # Errors
/// 400 `invalid_request` naming the member that is wrong, or saying where the text stops being JSON.
pub(super) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Problem> {
    // The path is only followed when there is something to name: it costs more than the parsing itself.
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, error))
}

fn explain<'de, T: Deserialize<'de>>(bytes: &'de [u8], error: serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let (path, error) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => (String::new(), error),
        Err(error) => {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            (path, error.into_inner())
        }
    };
    if error.classify() == Category::Data {
        let (field, what) = told(&path, &error.to_string());
        Problem::invalid(&field, &what)
    } else {
        Problem::invalid("", &format!("the body is not JSON: {error}"))
    }
}

/// The member that is wrong, and what is wrong with it, from serde's words.
fn told(path: &str, message: &str) -> (String, String) {
    // Line and column say less than the path does.
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message);
    let quoted = |start: &str| message.strip_prefix(start)?.strip_suffix('`');
    let member = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    if let Some(name) = quoted("missing field `") {
        return (member(name), "is missing".to_owned());
    }
    if let Some(name) = quoted("duplicate field `") {
        return (member(name), "is given twice".to_owned());
    }
    if let Some((name, known)) = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once("`, "))
    {
        // The path ends with the member where the reader was at its key already.
        let last = path.rsplit('.').next().unwrap_or_default();
        let field = if last == name {
            path.to_owned()
        } else {
            member(name)
        };
        return (field, format!("is not known here: {known}"));
    }
    (path.to_owned(), message.to_owned())
}

/// A JSON object, and nothing else: a derived `Deserialize` would take an array of the members' values as well.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number in 32 bits; for bounds that fit them.
    pub(super) fn u32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64) };
        u32::try_from(self.0).expect("the bound fits 32 bits")
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounds<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Bounds<MIN, MAX> {
            type Value = Whole<MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&number) {
                    Ok(Whole(number))
                } else {
                    Err(E::invalid_value(Unexpected::Unsigned(number), &self))
                }
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_u64(Bounds::<MIN, MAX>)
    }
}

/// A whole number of either sign, at most `MAX` away from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signed<const MAX: u64>(pub(super) i64);

impl<'de, const MAX: u64> Deserialize<'de> for Signed<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounds<const MAX: u64>;
        impl<const MAX: u64> Visitor<'_> for Bounds<MAX> {
            type Value = Signed<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from -{MAX} to {MAX}")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                if number.unsigned_abs() <= MAX {
                    Ok(Signed(number))
                } else {
                    Err(E::invalid_value(Unexpected::Signed(number), &self))
                }
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                match i64::try_from(number) {
                    Ok(number) => self.visit_i64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_i64(Bounds::<MAX>)
    }
}

/// A list of `MIN` to `MAX` elements; one more is refused before it is read.
#[derive(Debug)]
pub(super) struct List<T, const MIN: usize, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de>
    for List<T, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MIN: usize, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Visitor<'de>
            for Elements<T, MIN, MAX>
        {
            type Value = List<T, MIN, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of {MIN} to {MAX} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while elements.len() < MAX {
                    match list.next_element()? {
                        Some(element) => elements.push(element),
                        None if elements.len() < MIN => {
                            return Err(A::Error::invalid_length(elements.len(), &self));
                        }
                        None => return Ok(List(elements)),
                    }
                }
                match list.next_element::<serde::de::IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom(format_args!(
                        "has more than {MAX} elements"
                    ))),
                    None => Ok(List(elements)),
                }
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// A text of at most `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<const MAX: usize>(pub(super) String);

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bound<const MAX: usize>;
        impl<const MAX: usize> Visitor<'_> for Bound<MAX> {
            type Value = Text<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text of at most {MAX} bytes")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text.len() <= MAX {
                    Ok(Text(text.to_owned()))
                } else {
                    Err(E::custom(format_args!(
                        "is {} bytes long: at most {MAX} are allowed",
                        text.len()
                    )))
                }
            }
        }
        deserializer.deserialize_str(Bound::<MAX>)
    }
}

/// A time in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeText(pub(super) UnixMs);

impl<'de> Deserialize<'de> for TimeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rfc3339;
        impl Visitor<'_> for Rfc3339 {
            type Value = TimeText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2026-06-18T00:00:00Z\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TimeText, E> {
                parse_time(text).map(TimeText).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Rfc3339)
    }
}

/// A channel by its name; a derived `Deserialize` would take `{"app":null}` as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelName(pub(super) Channel);

impl ChannelName {
    /// The channel of this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        let mut known = Channel::ALL.into_iter();
        known.find(|known| known.as_str() == name).map(ChannelName)
    }
}

impl<'de> Deserialize<'de> for ChannelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = ChannelName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of \"app\", \"wechat\", \"qq\", \"web\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ChannelName, E> {
                ChannelName::of(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// For a member that may be absent but not null.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The value of a member whose null says something else than its absence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nullable<T>(pub(super) Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nullable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Nullable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        number: Whole<1, 5>,
        #[serde(default, deserialize_with = "present")]
        text: Option<Text<4>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        list: List<Object<Inner>, 1, 2>,
        #[serde(default, deserialize_with = "present")]
        time: Option<Nullable<TimeText>>,
        #[serde(default)]
        signed: Option<Signed<9>>,
    }

    fn refused(body: &str) -> (String, String) {
        let problem = parse::<Object<Outer>>(body.as_bytes()).unwrap_err();
        assert_eq!((problem.status(), problem.code()), (400, "invalid_request"));
        (problem.field().to_owned(), problem.detail().to_owned())
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let cases = [
            (r#"{"list":[{"number":0}]}"#, "list[0].number"),
            (r#"{"list":[{"number":6}]}"#, "list[0].number"),
            (r#"{"list":[{"number":-1}]}"#, "list[0].number"),
            (r#"{"list":[{"number":1.0}]}"#, "list[0].number"),
            (r#"{"list":[{"number":"1"}]}"#, "list[0].number"),
            (r#"{"list":[{"number":null}]}"#, "list[0].number"),
            (
                r#"{"list":[{"number":99999999999999999999}]}"#,
                "list[0].number",
            ),
            (r#"{"list":[{"number":1},{}]}"#, "list[1].number"),
            (r#"{"list":[{"number":1,"number":1}]}"#, "list[0].number"),
            (r#"{"list":[{"number":1,"odd":1}]}"#, "list[0].odd"),
            (r#"{"list":[{"number":1,"text":null}]}"#, "list[0].text"),
            (r#"{"list":[{"number":1,"text":"12345"}]}"#, "list[0].text"),
            (r#"{"list":[[1]]}"#, "list[0]"),
            (r#"{"list":[]}"#, "list"),
            (r#"{"list":{}}"#, "list"),
            (
                r#"{"list":[{"number":1},{"number":1},{"number":1}]}"#,
                "list",
            ),
            (r#"{"list":[{"number":1}],"list":[]}"#, "list"),
            (r#"{"list":[{"number":1}],"time":"soon"}"#, "time"),
            (r#"{"list":[{"number":1}],"time":5}"#, "time"),
            (r#"{"list":[{"number":1}],"signed":-10}"#, "signed"),
            (
                r#"{"list":[{"number":1}],"signed":18446744073709551615}"#,
                "signed",
            ),
            ("{}", "list"),
        ];
        for (body, field) in cases {
            let (named, detail) = refused(body);
            assert_eq!(named, field, "{body}: {detail}");
            assert!(
                detail.starts_with(&format!("{field}: ")),
                "{body}: {detail}"
            );
            assert!(!detail.contains(" at line "), "{body}: {detail}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused_without_a_field() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "{",
            "null",
            "[]",
            "5",
            "\"list\"",
            "{} {}",
            "{'list':1}",
            &deep,
        ] {
            let (field, detail) = refused(body);
            assert_eq!(
                field,
                if body == "{} {}" { "list" } else { "" },
                "{body:.20}: {detail}"
            );
        }
        let whole = r#"{"list":[{"number":1}]}"#;
        assert_eq!(refused(&format!("{whole} {{}}")).0, "");
        assert!(parse::<Object<Outer>>(b"{\"list\":[{\"number\":1,\"text\":\"\xff\"}]}").is_err());
    }

    #[test]
    fn absent_null_and_given_are_told_apart() {
        let read = |body: &str| parse::<Object<Outer>>(body.as_bytes()).unwrap().0;
        let absent = read(r#"{"list":[{"number":5}]}"#);
        assert_eq!((absent.time, absent.signed), (None, None));
        assert_eq!(
            (absent.list.0[0].0.number, &absent.list.0[0].0.text),
            (Whole(5), &None)
        );
        let null = read(r#"{"list":[{"number":5}],"time":null}"#);
        assert_eq!(null.time, Some(Nullable(None)));
        let given = read(
            r#"{"list":[{"number":1,"text":"1234"}],"time":"1970-01-01T00:00:00Z","signed":-9}"#,
        );
        let time = Some(Nullable(Some(TimeText(UnixMs(0)))));
        assert_eq!((given.time, given.signed), (time, Some(Signed(-9))));
        assert_eq!(given.list.0[0].0.text, Some(Text("1234".to_owned())));
    }

    #[test]
    fn a_channel_is_a_text() {
        let parse = |body: &str| parse::<ChannelName>(body.as_bytes()).ok();
        assert_eq!(parse("\"qq\""), Some(ChannelName(Channel::Qq)));
        for wrong in ["\"APP\"", "{\"app\":null}", "null", "1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
