//! Everything that asks the operating system about processes.

pub mod identity;
pub mod life;
#[cfg(feature = "worker")]
pub mod tree;
pub mod wake;
