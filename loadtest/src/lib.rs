//! Load for qiang over HTTP, an audit of what was granted, and comparisons with what a shop would use instead.
//!
//! Invariant: nothing here knows the inside of the product, and a figure is told only of a run whose orders were audited.
//!
//! - [`workload`] says what is asked for, [`client`] puts it on the wire, [`drive`] sends it at a pace, [`record`] measures.
//! - [`ledger`] keeps what the client was told of every order, [`audit`] compares that with the server's flows and counters.
//! - [`compare`] starts contenders and measures them in turns.
//! - [`run`] composes a run, [`report`] prints it, [`cli`] is the command line.

pub mod audit;
pub mod chance;
pub mod cli;
pub mod client;
pub mod compare;
pub mod drive;
pub mod failure;
pub mod identity;
pub mod ledger;
pub mod progress;
pub mod record;
pub mod report;
pub mod run;
pub mod sale;
pub mod usage;
pub mod workload;
