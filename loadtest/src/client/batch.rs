//! The answer to a batch, read in one pass.
//!
//! Invariant: as many results as grabs, each success about the grab in the same place. A general JSON reader would cost the
//! generator more than a grab costs the server, so only members are looked for; a quote inside a text is escaped, so
//! none of them can be found inside one.

use memchr::memmem::Finder;

use super::http::code_in;
use super::{Answer, Broken, Code};

const STATUS: &[u8] = b"\"status\":";
const ORDER: &[u8] = b"\"order_id\":\"";

/// Reads `count` results; `expected` appends the id of the order that the result of an index is about.
pub(super) fn read_batch(
    body: &[u8],
    count: u32,
    expected: impl Fn(usize, &mut Vec<u8>),
    code: &Finder<'_>,
    answers: &mut Vec<Answer>,
) -> Result<(), Broken> {
    let finder = Finder::new(STATUS);
    let mut starts = finder.find_iter(body).peekable();
    let mut order = Vec::new();
    let mut index = 0;
    while let Some(start) = starts.next() {
        let rest = &body[start + STATUS.len()..];
        let digits = rest
            .get(..3)
            .and_then(|text| std::str::from_utf8(text).ok());
        let status: u16 = digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Broken("a result whose status is no number".to_owned()))?;
        let code = if status == 200 {
            order.clear();
            expected(index, &mut order);
            // The order's id stands right after the status, and `replayed` not far behind it.
            let end = starts.peek().copied().unwrap_or(body.len());
            let result = &body[start + STATUS.len()..end];
            if !names(result, &order) {
                let order = String::from_utf8_lossy(&order);
                return Err(Broken(format!("result {index} is not about order {order}")));
            }
            if memchr::memmem::find(result, b"\"replayed\":true").is_some() {
                Code::REPLAYED
            } else {
                Code::GRANTED
            }
        } else {
            code_in(code, rest)
        };
        answers.push(Answer { status, code });
        index += 1;
    }
    if index == count as usize {
        Ok(())
    } else {
        Err(Broken(format!("{index} results for {count} grabs")))
    }
}

fn names(result: &[u8], order: &[u8]) -> bool {
    let found = memchr::memmem::find(result, ORDER);
    let rest = found.and_then(|at| result[at + ORDER.len()..].strip_prefix(order));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, count: u32) -> Result<Vec<(u16, &'static str)>, Broken> {
        let mut answers = Vec::new();
        let expected =
            |index: usize, out: &mut Vec<u8>| out.extend_from_slice(format!("o{index}").as_bytes());
        let code = Finder::new(b"\"code\":\"");
        read_batch(body.as_bytes(), count, expected, &code, &mut answers)?;
        let told = answers.iter().map(|a| (a.status, a.code.as_str()));
        Ok(told.collect())
    }

    const BODY: &str = r#"{"results":[{"status":200,"order_id":"o0","outcome":"granted","replayed":false,"items":[]},{"type":"t","title":"Sold out","status":409,"code":"sold_out","detail":"a \"status\":200 in a text"},{"status":200,"order_id":"o2","outcome":"granted","replayed":true,"items":[]}]}"#;

    #[test]
    fn every_result_is_read() {
        let expected = vec![(200, "granted"), (409, "sold_out"), (200, "replayed")];
        assert_eq!(read(BODY, 3), Ok(expected));
    }

    #[test]
    fn a_result_about_another_order_is_no_answer() {
        let error = read(&BODY.replace("\"o2\"", "\"o3\""), 3).unwrap_err();
        assert!(error.to_string().contains("order o2"), "{error}");
        let error = read(&BODY.replace("\"o2\"", "\"o22\""), 3).unwrap_err();
        assert!(error.to_string().contains("order o2"), "{error}");
    }

    #[test]
    fn a_result_too_few_or_too_many_is_no_answer() {
        assert!(read(BODY, 2).is_err() && read(BODY, 4).is_err());
    }
}
