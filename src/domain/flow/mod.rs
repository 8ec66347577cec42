//! The flows: their parameters, defaults, work queue, retry policy and assets.
//!
//! A flow is built in (`full-frames`, `crop-frames`, `caption-median-ocr`) or declared in `captionacc.toml` with a program as its runner.
//! Everything that a caller hands over is checked once, before anything is stored: what comes out of it,
//! [`Arguments`], is complete and typed. What is stored and shown are [`Parameters`].

mod aliases;
mod arguments;
mod catalogue;
mod definition;
mod parameters;
mod parse;
mod positions;
mod retry;
mod subject;
mod template;
mod work_queue;

pub use aliases::{flow_meant_by, legacy_names, names_meaning};
pub use arguments::{
    Arguments, CaptionMedianOcr, CommandArguments, CropBounds, CropFrames, DEFAULT_LANGUAGE, FullFrames, OnDamage,
    VideoFiles,
};
pub use catalogue::Flows;
pub use definition::{
    CommandRunner, DEFAULT_FLOW_TIMEOUT_MS, FlowDefinition, ParameterDefinition, ParameterKind, Runner, StatusTable,
};
pub use parameters::{CAPTION_IDS, Parameters};
pub use retry::RetryPolicy;
pub use subject::Subject;
pub use template::fill;
pub use work_queue::{DEFAULT_CONCURRENCY_LIMIT, WORK_POOL, WorkQueue, default_background_limit};
