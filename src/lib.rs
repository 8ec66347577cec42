//! CaptionA.cc orchestrator: a durable queue of caption flows and the worker that runs them.
//!
//! One crate, two builds: the Node addon (feature `addon`: queue and watch flow runs) and the `captionacc`
//! binary (feature `worker`: claims flow runs and runs each in a child process). ARCHITECTURE.md is the map.

#[cfg(feature = "addon")]
mod addon;
pub mod assets;
pub mod error;
pub mod flow;
pub mod flow_run;
pub mod life;
pub mod orchestrator;
pub mod process_identity;
pub mod settings;
pub mod state;

#[cfg(feature = "worker")]
pub mod annotations;
#[cfg(feature = "worker")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod engine;
#[cfg(feature = "worker")]
pub mod ocr;
#[cfg(feature = "worker")]
pub mod picture;
#[cfg(feature = "worker")]
pub mod pipeline;
#[cfg(feature = "worker")]
pub mod process_tree;
pub mod protocol;
#[cfg(feature = "worker")]
pub mod video;
#[cfg(feature = "worker")]
pub mod worker;
