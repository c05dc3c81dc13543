//! What stands in a request's path and query: ids and parameters, percent-decoded.
//!
//! Invariant: a parameter that no route asked for, or that is given twice, is refused by name.

use std::str::FromStr;

use qiang_engine::ids::IdError;

use super::problem::Problem;

/// The parameters of a query that have not been asked for yet.
#[derive(Debug)]
pub(super) struct Query {
    left: Vec<(String, String)>,
}

impl Query {
    /// Reads `name=value&…`.
    ///
    /// # Errors
    /// 400 where an escape is wrong or a parameter is given twice.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut left: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| decode(&text.replace('+', " "));
            let Some(name) = decoded(name) else {
                return Err(Problem::invalid(name, "is not UTF-8 in percent escapes"));
            };
            let Some(value) = decoded(value) else {
                return Err(Problem::invalid(&name, "is not UTF-8 in percent escapes"));
            };
            if left.iter().any(|(known, _)| *known == name) {
                return Err(Problem::invalid(&name, "is given twice"));
            }
            left.push((name, value));
        }
        Ok(Query { left })
    }

    /// Takes the parameter `name`, if it was given.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(given, _)| given == name)?;
        Some(self.left.swap_remove(at).1)
    }

    /// Takes the id `name`, if it was given.
    ///
    /// # Errors
    /// 400 naming it.
    pub(super) fn take_id<T: FromStr<Err = IdError>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let id = text
            .parse()
            .map_err(|error: IdError| Problem::invalid(name, &error.to_string()))?;
        Ok(Some(id))
    }

    /// Takes the whole number `name` from `least` to `most`, or `default` where it was not given.
    ///
    /// # Errors
    /// 400 naming it.
    pub(super) fn take_number(
        &mut self,
        name: &str,
        least: u64,
        most: u64,
        default: u64,
    ) -> Result<u64, Problem> {
        let Some(text) = self.take(name) else {
            return Ok(default);
        };
        parse_number(name, &text, least, most)
    }

    /// Takes the flag `name`; false where it was not given.
    ///
    /// # Errors
    /// 400 naming it.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => {
                let what = format!("{text:?} is neither true nor false");
                Err(Problem::invalid(name, &what))
            }
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// 400 naming the first parameter that no route asked for.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid(name, "this route has no such parameter")),
        }
    }
}

/// Reads the whole number `text` of the parameter `name`, from `least` to `most`.
///
/// # Errors
/// 400 naming the parameter.
pub(super) fn parse_number(name: &str, text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|number| digits && (least..=most).contains(number));
    number.ok_or_else(|| {
        let what = format!("{text:?} is not a whole number from {least} to {most}");
        Problem::invalid(name, &what)
    })
}

/// Reads the id in a segment of a path; `name` is what the segment is called.
///
/// # Errors
/// 400 naming it.
pub(super) fn path_id<T: FromStr<Err = IdError>>(name: &str, segment: &str) -> Result<T, Problem> {
    let wrong = |what: &str| Problem::invalid(name, what);
    if !segment.contains('%') {
        return segment
            .parse()
            .map_err(|error: IdError| wrong(&error.to_string()));
    }
    let text = decode(segment).ok_or_else(|| wrong("is not UTF-8 in percent escapes"))?;
    text.parse()
        .map_err(|error: IdError| wrong(&error.to_string()))
}

/// Resolves percent escapes; `None` where one is broken or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(byte).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiang_engine::PromotionId;

    #[test]
    fn parameters_are_decoded_and_taken_once() {
        let mut query = Query::parse(Some("a=1&b=x%3Ay&&c&d=p+q")).unwrap();
        assert_eq!(query.take("b").as_deref(), Some("x:y"));
        assert_eq!(query.take("b"), None);
        assert_eq!(query.take("c").as_deref(), Some(""));
        assert_eq!(query.take("d").as_deref(), Some("p q"));
        assert_eq!(query.take_number("a", 1, 9, 5).unwrap(), 1);
        assert_eq!(query.take_number("a", 1, 9, 5).unwrap(), 5);
        query.finish().unwrap();
        let mut flags = Query::parse(Some("f=true&g=false")).unwrap();
        let taken = ["f", "g", "h"].map(|name| flags.take_flag(name).unwrap());
        assert_eq!(taken, [true, false, false]);
        Query::parse(None).unwrap().finish().unwrap();
    }

    #[test]
    fn wrong_parameters_are_named() {
        let number = |query: &str| {
            Query::parse(Some(query))
                .unwrap()
                .take_number("n", 1, 9, 5)
                .unwrap_err()
        };
        for query in [
            "n=0",
            "n=10",
            "n=-1",
            "n=+1",
            "n=",
            "n=many",
            "n=1.0",
            "n=99999999999999999999",
        ] {
            assert_eq!(number(query).field(), "n", "{query}");
        }
        let id = |query: &str| {
            Query::parse(Some(query))
                .unwrap()
                .take_id::<PromotionId>("p")
                .unwrap_err()
        };
        for query in ["f=", "f=1", "f=yes", "f=True"] {
            let flag = Query::parse(Some(query)).unwrap().take_flag("f");
            assert_eq!(flag.unwrap_err().field(), "f", "{query}");
        }
        for query in ["p=", "p=a%20b", "p=a+b", "p=%E8%AE%A2", "p=a%00b"] {
            assert_eq!(id(query).field(), "p", "{query}");
        }
        for (query, field) in [
            ("a=1&a=2", "a"),
            ("a=%ff", "a"),
            ("a=%4", "a"),
            ("a=%zz", "a"),
        ] {
            assert_eq!(
                Query::parse(Some(query)).unwrap_err().field(),
                field,
                "{query}"
            );
        }
        let left = Query::parse(Some("colour=red"))
            .unwrap()
            .finish()
            .unwrap_err();
        assert_eq!((left.status(), left.field()), (400, "colour"));
    }

    #[test]
    fn ids_in_paths_are_decoded() {
        let id = |segment: &str| path_id::<PromotionId>("promotion_id", segment);
        assert_eq!(id("a%3Ab").unwrap().as_str(), "a:b");
        for segment in ["a%20b", "a%2Fb", "%ff", "%E8%AE%A2", "a%", &"x".repeat(65)] {
            assert_eq!(
                id(segment).unwrap_err().field(),
                "promotion_id",
                "{segment}"
            );
        }
    }
}
