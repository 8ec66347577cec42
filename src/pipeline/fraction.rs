//! Progress as a number.

/// A share of work as a number for people.
#[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
pub(super) fn fraction(done: u64, total: u64) -> f64 {
    if total == 0 {
        1.0
    } else {
        (done as f64 / total as f64).min(1.0)
    }
}
