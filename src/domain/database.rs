//! Which annotations.db is meant.

use serde::{Deserialize, Serialize};

/// A file told apart from another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}
