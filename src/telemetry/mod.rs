//! Traces: what a run's way from the call that queued it to its last task took, for a collector of OpenTelemetry.
//!
//! Off unless OpenTelemetry's own variables ask for it (`settings/traces.rs`). OTLP over HTTP, written here: OpenTelemetry's SDK
//! for Rust (0.33) reads the environment by itself, on whatever thread it is built, which within Node is a race with whoever sets a
//! variable; it passes over values that it cannot use; and it keeps a thread. A span's context goes with the run, also where nothing is exported, so that whoever
//! exports elsewhere belongs to the same trace.

mod exporter;
mod messages;
mod queueing;
mod span;

pub use queueing::create_flow_run;
pub use span::{Kind, Span, Tracer};
