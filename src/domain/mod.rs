//! What the project speaks of, as plain values: ids, states, flow runs, flows with their arguments, assets, errors.
//!
//! Pure: nothing here asks a file, a clock or a network. Everything else builds on it, and it builds on nothing.

pub mod asset;
pub mod database;
pub mod error;
pub mod finding;
pub mod flow;
pub mod flow_run;
pub mod id;
pub mod lease;
pub mod plain_message;
pub mod prefect_error;
pub mod state;
pub mod trace;
