//! The answer to a batch, read in one pass.
//!
//! Invariant: as many results as grabs, each success about the grab in the same place. A general JSON reader would cost the
//! generator more than a grab costs the server, so only members are looked for; a quote inside a text is escaped, so
//! none of them can be found inside one.

use super::members::{Members, names};
use super::{Answer, Broken};

/// What stands between a success's status and the order's id.
const GRANT: &[u8] = b",\"order_id\":\"";

/// Digits of a status.
const STATUS_DIGITS: usize = 3;

/// Reads `count` results; `expected` appends the id of the order that the result of an index is about.
pub(super) fn read_batch(
    body: &[u8],
    count: u32,
    expected: impl Fn(usize, &mut Vec<u8>),
    members: &Members,
    answers: &mut Vec<Answer>,
) -> Result<(), Broken> {
    let mut starts = members.status.find_iter(body).peekable();
    let mut order = Vec::new();
    let mut index = 0;
    while let Some(start) = starts.next() {
        let from = start + members.status.needle().len();
        let result = &body[from..starts.peek().copied().unwrap_or(body.len())];
        let (digits, rest) = result.split_at(STATUS_DIGITS.min(result.len()));
        let digits = std::str::from_utf8(digits).ok();
        let status: u16 = digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Broken("a result whose status is no number".to_owned()))?;
        let code = if status == 200 {
            order.clear();
            expected(index, &mut order);
            if !names(rest, GRANT, &order) {
                let order = String::from_utf8_lossy(&order);
                return Err(Broken(format!("result {index} is not about order {order}")));
            }
            members.grant(rest)
        } else {
            members.code(rest)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, count: u32) -> Result<Vec<(u16, &'static str)>, Broken> {
        let mut answers = Vec::new();
        let expected =
            |index: usize, out: &mut Vec<u8>| out.extend_from_slice(format!("o{index}").as_bytes());
        let members = Members::default();
        read_batch(body.as_bytes(), count, expected, &members, &mut answers)?;
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
