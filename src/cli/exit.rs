//! The exit codes of the commands. Those of a child (`captionacc attempt`) are its protocol's: see the engine.

use std::process::ExitCode;

/// The command did what it was asked.
pub(super) const DONE: ExitCode = ExitCode::SUCCESS;
/// It did not: stderr says why, in one line of JSON. Wrong arguments too, as callers of the old scripts know it.
pub(super) const FAILED: ExitCode = ExitCode::FAILURE;
