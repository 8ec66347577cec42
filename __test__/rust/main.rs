//! Tests over real parts, as one binary: real videos, real databases, real processes.

mod conformance;
mod worker;
mod world;
