//! CaptionA.cc orchestrator: a durable queue of caption flows and the worker that runs them.
//!
//! One crate, two builds: the Node addon (feature `addon`: queue and watch flow runs) and the `captionacc`
//! binary (feature `worker`: claims flow runs and runs each in a child process). ARCHITECTURE.md is the map.

#[cfg(feature = "addon")]
mod addon;
pub mod domain;
pub mod orchestrator;
pub mod process;
pub mod settings;
pub mod telemetry;

#[cfg(feature = "worker")]
pub mod annotations;
#[cfg(feature = "worker")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod dashboard;
#[cfg(feature = "worker")]
pub mod engine;
#[cfg(feature = "worker")]
pub mod ocr;
#[cfg(feature = "worker")]
pub mod picture;
#[cfg(feature = "worker")]
pub mod pipeline;
pub mod protocol;
#[cfg(feature = "worker")]
pub mod video;
#[cfg(feature = "worker")]
pub mod worker;
