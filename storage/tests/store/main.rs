//! Tests of the store against a real disk: one binary, one module per question.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, and in what tests share, a panic is the report"
)]

mod clear;
mod common;
mod corruption;
mod crash_image;
mod full_disk;
mod incarnation;
mod kill;
mod log;
mod model;
mod refusals;
mod simulation;
mod snapshots;
