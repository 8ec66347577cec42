//! Against a real Prefect server, with Prefect's own Python client as the judge.

mod across;
mod away;
mod client;
mod delivery;
mod doctor;
mod end_to_end;
mod following;
mod foreign;
mod interop;
pub mod judge;
mod legacy;
mod limits;
mod lost_runs;
mod machines;
mod notifying;
mod progress;
pub mod proxy;
mod queueing;
mod runner;
pub mod server;
mod setup;
pub mod subject;
mod taking_over;
mod test_bed;
mod traces;
mod watching;
