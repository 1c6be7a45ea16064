//! The vocabulary of trawl and the seams between its parts.
//!
//! Everything that the producer, the workers and the tests must agree on lives here: the wire
//! messages ([`job`], [`batch`]), the layout of an output ([`results`]), and three of the four seams
//! ([`broker`], [`storage`], [`ledger`]; the fourth, the model, is the worker's own). No torch and no
//! image decoding in this crate: `trawl` must start in milliseconds.
//!
//! Read in this order to follow a batch: [`planning`] -> [`broker`] -> (the worker) -> [`results`] ->
//! [`ledger`] -> [`finalize`] -> [`audit`].

pub mod audit;
#[cfg(feature = "bar")]
pub mod bar;
pub mod batch;
pub mod bits;
pub mod broker;
pub mod bundle;
pub mod carried;
pub mod chance;
pub mod command_line;
pub mod config;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod dead;
pub mod disposition;
pub mod error_code;
pub mod exit;
pub mod exposition;
pub mod failpoint;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
pub mod finalize;
pub mod fleet;
pub mod heap;
pub mod job;
pub mod ledger;
pub mod location;
pub mod model_file;
pub mod model_import;
pub mod offload;
pub mod planning;
pub mod results;
pub mod retry;
pub mod selection;
pub mod services;
pub mod shutdown;
pub mod source_args;
pub mod stages;
pub mod standing;
pub mod stdin_list;
pub mod storage;
pub mod summary;
pub mod table;
pub mod telemetry;
pub mod terminal;
pub mod text;
pub mod tls;
pub mod trace;
