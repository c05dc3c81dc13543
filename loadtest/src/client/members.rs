//! Members of answers that decide what an answer means, found without reading all of it.
//!
//! Invariant: nothing inside a text is taken for a member, because a quote inside a text is escaped.

use memchr::memmem::Finder;

use super::Code;

/// Where members begin; prepared once, since a search takes less time than its preparation.
#[derive(Debug)]
pub(super) struct Members {
    code: Finder<'static>,
    replayed: Finder<'static>,
    pub(super) status: Finder<'static>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            code: Finder::new(b"\"code\":\""),
            replayed: Finder::new(b"\"replayed\":true"),
            status: Finder::new(b"\"status\":"),
        }
    }
}

impl Members {
    /// The code of a problem.
    pub(super) fn code(&self, problem: &[u8]) -> Code {
        let Some(at) = self.code.find(problem) else {
            return Code::OTHER;
        };
        let rest = &problem[at + self.code.needle().len()..];
        let end = memchr::memchr(b'"', rest).unwrap_or(rest.len());
        Code::of(&rest[..end])
    }

    /// Whether a grant is the one that was given before.
    pub(super) fn grant(&self, granted: &[u8]) -> Code {
        if self.replayed.find(granted).is_some() {
            Code::REPLAYED
        } else {
            Code::GRANTED
        }
    }
}

/// Whether `text` begins with `before`, the order's id and a quote.
pub(super) fn names(text: &[u8], before: &[u8], order: &[u8]) -> bool {
    let rest = text.strip_prefix(before);
    let rest = rest.and_then(|rest| rest.strip_prefix(order));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}
