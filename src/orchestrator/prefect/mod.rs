//! The Prefect orchestrator: flow runs in a Prefect 3 server or Prefect Cloud.

pub mod api;
pub mod client;
pub mod error;
pub mod model;
pub mod settings;
