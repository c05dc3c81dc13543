//! How a command can fail, which is also how the process ends. Invariant: each kind has the exit code of the contract.

use serde_json::Value;

/// Exit code of wrong use.
pub(crate) const USAGE: u8 = 2;

/// Exit code of an error of the server, or of this machine.
pub(crate) const SERVER: u8 = 5;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A business rule refused: exit code 1.
    #[error("{0}")]
    Refused(String),
    /// Wrong use, or values that cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No connection: exit code 3.
    #[error("{0}")]
    Connect(String),
    /// Not allowed: exit code 4.
    #[error("{0}")]
    Unauthorised(String),
    /// The server, the disk or this machine failed: exit code 5.
    #[error("{0}")]
    Server(String),
    /// Unhealthy, or a check found something: exit code 6.
    #[error("{0}")]
    Check(String),
    /// Whoever read stdout has left (`qiang … | head`): not an error, exit code 0.
    #[error("nobody reads the output")]
    ReaderGone,
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::ReaderGone => 0,
            Failure::Refused(_) => 1,
            Failure::Usage(_) => USAGE,
            Failure::Connect(_) => 3,
            Failure::Unauthorised(_) => 4,
            Failure::Server(_) => SERVER,
            Failure::Check(_) => 6,
        }
    }

    /// What an answer that is no success means: the `detail` for people with the stable `code` behind it.
    pub(crate) fn from_problem(status: u16, body: &[u8]) -> Self {
        let problem: Option<Value> = serde_json::from_slice(body).ok();
        let text = |member: &str| {
            let value = problem.as_ref()?.get(member)?;
            value.as_str().map(crate::cli::output::printable)
        };
        let code = text("code").unwrap_or_else(|| format!("status {status}"));
        let told = text("detail").or_else(|| text("title"));
        let told = told.unwrap_or_else(|| "the server gave no reason".to_owned());
        let mut message = format!("{told} ({code})");
        if code == "outcome_unknown" {
            message.push_str("; repeat the same command to learn the outcome");
        }
        match status {
            // A promotion's own window is a rule of the shop; `overloaded` is the server's state.
            429 if code == "rate_limited" => Failure::Refused(message),
            400 | 405 | 413..=415 | 431 => Failure::Usage(message),
            401 | 403 => Failure::Unauthorised(message),
            408 | 429 | 500.. => Failure::Server(message),
            _ => Failure::Refused(message),
        }
    }
}

/// Writing data can fail in two ways: the reader left, or the disk behind stdout did.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::ReaderGone
        } else {
            Failure::Server(format!("cannot write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(status: u16, code: &str) -> u8 {
        let body = format!(r#"{{"code":"{code}","detail":"d"}}"#);
        Failure::from_problem(status, body.as_bytes()).exit_code()
    }

    #[test]
    fn every_answer_has_the_exit_code_of_the_contract() {
        assert_eq!(code_of(409, "sold_out"), 1);
        assert_eq!(code_of(404, "promotion_not_found"), 1);
        assert_eq!(code_of(422, "order_mismatch"), 1);
        assert_eq!(code_of(429, "rate_limited"), 1);
        assert_eq!(code_of(400, "invalid"), 2);
        assert_eq!(code_of(401, "unauthorised"), 4);
        assert_eq!(code_of(403, "forbidden"), 4);
        assert_eq!(code_of(429, "overloaded"), 5);
        assert_eq!(code_of(503, "unavailable"), 5);
        assert_eq!(code_of(504, "outcome_unknown"), 5);
        assert_eq!(code_of(500, "internal"), 5);
    }

    #[test]
    fn a_problem_is_told_with_its_detail_and_code() {
        let body = br#"{"code":"sold_out","detail":"0 of A remain, 2 asked"}"#;
        let failure = Failure::from_problem(409, body);
        assert_eq!(failure.to_string(), "0 of A remain, 2 asked (sold_out)");
        let failure = Failure::from_problem(502, b"<html>");
        assert_eq!(
            failure.to_string(),
            "the server gave no reason (status 502)"
        );
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(broken).exit_code(), 0);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::from(full).exit_code(), 5);
    }
}
