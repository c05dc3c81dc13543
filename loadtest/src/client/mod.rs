//! What goes over the wire.
//!
//! Invariant: on the way of a request nothing is allocated: it is written into the connection's buffer, and its answer
//! is read where it arrived. The generator shares the machine with what it measures, so its own work must be small.

mod address;
mod answer;
mod batch;
mod http;
mod members;
mod plain;
mod resp;

pub use address::Address;
pub(crate) use answer::CODES;
pub use answer::{Answer, Code};
pub use http::Http;
pub use plain::Plain;
pub(crate) use resp::command;
pub use resp::{Resp, Script as RedisScript};

use crate::workload::Step;

/// A way to say steps and to read their answers.
pub trait Protocol {
    /// Appends the request of a step.
    fn encode(&mut self, step: &Step, out: &mut Vec<u8>);

    /// Reads the answer of a step from the beginning of `input`: pushes as many answers as the step has and says how many bytes
    /// they took; `None` if the rest has not arrived yet.
    ///
    /// # Errors
    /// What came is no answer to this step; the connection is of no use any more.
    fn decode(
        &mut self,
        step: &Step,
        input: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<Option<usize>, Broken>;
}

/// What came was no answer to what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what came is no answer to what was asked: {0}")]
pub struct Broken(pub String);
