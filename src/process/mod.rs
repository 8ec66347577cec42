//! Everything that asks the operating system about processes.
//!
//! What differs from system to system lies in `linux/` and `macos/`, in files of the same names with the same functions; the
//! file here says what they are for. [`machine::not_guaranteed`] says what does not hold on a system.

#[cfg(feature = "worker")]
pub mod check;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("captionacc knows Linux and macOS: src/process/ has what another system needs");

#[cfg(feature = "worker")]
pub mod guarantee;
pub mod identity;
pub mod life;
#[cfg(feature = "worker")]
pub mod machine;
#[cfg(feature = "worker")]
pub mod tree;
pub mod wake;
