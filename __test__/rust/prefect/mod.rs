//! Against a real Prefect server, with Prefect's own Python client as the judge.

mod client;
mod foreign;
pub mod judge;
pub mod proxy;
pub mod server;
mod setup;
mod test_bed;
