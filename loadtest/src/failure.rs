//! How a command can fail, which is also how the process ends. Invariant: each kind has the exit code of the contract.

/// Exit code of wrong use.
pub(crate) const USAGE: u8 = 2;

/// Exit code of an error of the server, or of this machine.
pub(crate) const SERVER: u8 = 5;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong use, or values that cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No connection: exit code 3.
    #[error("{0}")]
    Connect(String),
    /// The server, the disk or this machine failed: exit code 5.
    #[error("{0}")]
    Server(String),
    /// The audit found a difference: exit code 6.
    #[error("{0}")]
    Audit(String),
    /// Whoever read stdout has left (`qiang-load … | head`): not an error, exit code 0.
    #[error("nobody reads the output")]
    ReaderGone,
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::ReaderGone => 0,
            Failure::Usage(_) => USAGE,
            Failure::Connect(_) => 3,
            Failure::Server(_) => SERVER,
            Failure::Audit(_) => 6,
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

    #[test]
    fn every_failure_has_the_exit_code_of_the_contract() {
        let text = String::new;
        assert_eq!(Failure::Usage(text()).exit_code(), 2);
        assert_eq!(Failure::Connect(text()).exit_code(), 3);
        assert_eq!(Failure::Server(text()).exit_code(), 5);
        assert_eq!(Failure::Audit(text()).exit_code(), 6);
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(broken).exit_code(), 0);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::from(full).exit_code(), 5);
    }
}
