//! Everything that asks the operating system about processes.

#[cfg(feature = "worker")]
pub mod check;
pub mod identity;
pub mod life;
#[cfg(feature = "worker")]
pub mod tree;
pub mod wake;
