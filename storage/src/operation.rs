//! What callers hand over to be written, and how they are told what became of it. Invariant: every operation is finished once, unless
//! the process ends first.

use std::sync::Arc;

use crate::WriteError;
use crate::group::Group;
use crate::tail::Values;

/// Called once, on the writer's thread, when an operation is durable or has failed; on the caller's thread if it is refused at once. It
/// must be short and must not wait for the store: everybody's acknowledgements wait behind it.
pub type Done = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// One change of the rare kinds.
pub(crate) enum Edit {
    /// Stores a piece of state.
    Put { key: Vec<u8>, payload: Vec<u8> },
    /// Removes a piece of state.
    Delete { key: Vec<u8> },
    /// Removes the entries `from..to`.
    DeleteEntries { from: u64, to: u64 },
}

/// What a caller hands over.
pub(crate) enum Operation {
    Append {
        group: Arc<Group>,
        first: u64,
        values: Values,
        /// Whether the first of them is now the first flow present.
        begins: bool,
        epoch: u64,
        done: Done,
    },
    Change {
        group: Arc<Group>,
        edits: Vec<Edit>,
        /// `(epoch, end)` of a log that was cut or moved.
        end: Option<(u64, u64)>,
        done: Option<Done>,
    },
    /// There are committed indexes to write, and the writer may be asleep.
    Wake,
}

impl Operation {
    /// Tells whoever waits for it.
    pub(crate) fn finish(self, result: Result<(), WriteError>) {
        match self {
            Self::Append {
                group,
                first,
                values,
                epoch,
                done,
                ..
            } => {
                if result.is_ok() {
                    group.state().on_durable(epoch, first + values.len() as u64);
                }
                done(result);
            }
            Self::Change {
                group, end, done, ..
            } => {
                if let (Ok(()), Some((epoch, end))) = (&result, end) {
                    group.state().on_durable(epoch, end);
                }
                if let Some(done) = done {
                    done(result);
                }
            }
            Self::Wake => {}
        }
    }
}
