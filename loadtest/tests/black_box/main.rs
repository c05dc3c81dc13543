//! `qiang-load` as its users have it: the built binary against the released `qiang`, by exit codes and output only.
//!
//! Invariant: function is tested, never speed; a slow machine makes these tests slow, not red.

mod compare;
mod node;
mod proxy;
mod usage;
mod workloads;
