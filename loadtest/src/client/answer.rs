//! What a request was answered. Invariant: an answer is two bytes and a number, and its code's name is looked up only for reports.

/// Codes that are counted under their own name. The most frequent come first: they are searched in order.
const NAMES: [&str; 42] = [
    "granted",
    "sold_out",
    "replayed",
    "ok",
    "overloaded",
    "rate_limited",
    "pin_limit",
    "ip_limit",
    "order_limit",
    "order_returned",
    "order_confirmed",
    "order_not_found",
    "order_mismatch",
    "outcome_unknown",
    "unavailable",
    "promotion_not_found",
    "not_started",
    "ended",
    "stopped",
    "deleted",
    "channel_closed",
    "ambiguous_order",
    "invalid_request",
    "body_too_large",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "internal",
    "not_ready",
    "unauthorised",
    "forbidden",
    "no_answer",
    "not_replicated",
    "flows_forgotten",
    "shard_not_found",
    "promotion_exists",
    "insufficient_remaining",
    "version_conflict",
    "cluster_refused",
    "recovery_refused",
    "redis_error",
    "other",
];

/// How many codes there are.
pub(crate) const CODES: usize = NAMES.len();

/// A stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u8);

impl Code {
    /// A grab was granted.
    pub const GRANTED: Code = Code(0);
    /// Fewer units remain than asked for.
    pub const SOLD_OUT: Code = Code(1);
    /// A grab was granted before.
    pub const REPLAYED: Code = Code(2);
    /// Anything but a grab was done.
    pub const OK: Code = Code(3);
    /// No answer came.
    pub const NO_ANSWER: Code = Code(31);
    /// Fewer replicas than asked for have it (Redis).
    pub const NOT_REPLICATED: Code = Code(32);
    /// Redis answered with an error.
    pub const REDIS_ERROR: Code = Code(40);
    /// A code that is not in the contract.
    pub const OTHER: Code = Code(41);

    /// The code of this name.
    pub fn of(name: &[u8]) -> Self {
        let at = NAMES.iter().position(|known| known.as_bytes() == name);
        at.map_or(Self::OTHER, |at| Code(at as u8))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        NAMES[self.index()]
    }

    /// Its place in a table of all codes.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All codes.
    pub(crate) fn all() -> impl Iterator<Item = Code> {
        (0..CODES as u8).map(Code)
    }
}

/// The answer to one request, or to one grab of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, or what it would be.
    pub status: u16,
    /// The code.
    pub code: Code,
}

impl Answer {
    /// No answer came, and none will.
    pub const NONE: Answer = Answer {
        status: 0,
        code: Code::NO_ANSWER,
    };

    /// Whether it was done.
    pub fn is_success(self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether nobody knows if it was done: no answer, `outcome_unknown`, or an error in the midst of it. `unavailable`
    /// says that nothing was done.
    pub fn is_unknown(self) -> bool {
        self.status == 0 || (self.status >= 500 && self.code != Code::of(b"unavailable"))
    }

    /// Whether it denies that the order is known: an order that was granted before must not be answered so. The
    /// promotion's state, its channels and its window are looked at before the order.
    pub fn denies_the_order(self) -> bool {
        const DENIALS: [&str; 6] = [
            "sold_out",
            "pin_limit",
            "ip_limit",
            "order_limit",
            "order_mismatch",
            "order_not_found",
        ];
        !self.is_success() && DENIALS.contains(&self.code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_by_their_names() {
        for (code, name) in [
            (Code::GRANTED, "granted"),
            (Code::SOLD_OUT, "sold_out"),
            (Code::REPLAYED, "replayed"),
            (Code::OK, "ok"),
            (Code::NO_ANSWER, "no_answer"),
            (Code::NOT_REPLICATED, "not_replicated"),
            (Code::REDIS_ERROR, "redis_error"),
            (Code::OTHER, "other"),
        ] {
            assert_eq!((code.as_str(), Code::of(name.as_bytes())), (name, code));
        }
        assert_eq!(Code::of(b"something_new"), Code::OTHER);
        assert!(Code::all().all(|code| Code::of(code.as_str().as_bytes()) == code));
    }

    #[test]
    fn what_was_refused_is_not_unknown() {
        let answer = |status, code: &str| Answer {
            status,
            code: Code::of(code.as_bytes()),
        };
        assert!(answer(504, "outcome_unknown").is_unknown());
        assert!(answer(500, "internal").is_unknown());
        assert!(Answer::NONE.is_unknown());
        assert!(!answer(503, "unavailable").is_unknown());
        assert!(!answer(409, "sold_out").is_unknown());
        assert!(answer(409, "sold_out").denies_the_order());
        assert!(!answer(409, "stopped").denies_the_order());
        assert!(!answer(429, "overloaded").denies_the_order());
    }
}
