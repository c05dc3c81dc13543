//! Reports of a run: tables, JSON, a page with plots.

mod page;
mod plot;
mod summary;
mod table;

pub use page::page;
pub use summary::{Latency, Summary};
pub use table::{ms, report, table, thousands};
