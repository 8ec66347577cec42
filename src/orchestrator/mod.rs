//! The orchestrator: where flow runs are queued, claimed, and where what becomes of them is kept.
//!
//! Two traits, because it has two audiences: [`queue::Queue`] for callers, [`claims::Claims`] for workers. [`local`] is the
//! embedded orchestrator, [`prefect`] the one over a Prefect API; [`open`] chooses.

pub mod attention;
#[cfg(feature = "worker")]
pub mod check;
pub mod claims;
pub mod delivery;
pub mod events;
pub mod feed;
pub mod following;
pub mod here;
pub mod local;
pub mod notifications;
pub mod open;
pub mod prefect;
pub mod queue;
mod video_file;
pub mod watching;
