//! What a system does not give.

/// Something that this program promises and that this system does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarantee {
    /// What does not hold here.
    pub what: &'static str,
    /// What is so instead, and what to do about it.
    pub instead: &'static str,
}
