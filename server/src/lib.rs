//! One qiang node as a process: its HTTP interface, its command line, and the carts that span shards.
//!
//! [`serve`] puts the parts of a node together; [`cli`] is everything else the binary does.

mod cart;
pub mod cli;
pub mod cluster_config;
pub mod courier;
mod demo;
pub mod http;
pub mod metrics;
pub mod node_config;
mod orders;
pub mod serve;
pub mod service;
