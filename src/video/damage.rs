//! Where a video is damaged, for people and for records.

use std::fmt::Write as _;

/// Stretches that are named in one line.
const NAMED_STRETCHES: usize = 3;

/// What could not be shown of a video. Empty for one that is whole, as far as it was decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Damage {
    /// In order, apart from one another.
    pub stretches: Vec<DamagedStretch>,
    /// Samples that show an earlier picture, or the first good one, in place of their own.
    pub samples: u64,
}

/// A damaged part of a video, on its own timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct DamagedStretch {
    /// Where it begins.
    pub from_seconds: f64,
    /// Where the next good picture is, or the video ends.
    pub to_seconds: f64,
    /// Samples within that show another picture than their own; 0 where the pictures could be decoded all the same.
    pub samples: u64,
    /// What the container or the decoder said.
    pub reason: String,
}

impl Damage {
    /// `2.4 s damaged: 00:12:03.1-00:12:05.5`, or `None` if nothing is.
    pub fn summary(&self) -> Option<String> {
        if self.stretches.is_empty() {
            return None;
        }
        let mut text = format!("{:.1} s damaged: ", self.seconds());
        for (at, stretch) in self.stretches.iter().take(NAMED_STRETCHES).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let (from, to) = (clock(stretch.from_seconds), clock(stretch.to_seconds));
            let _ = write!(text, "{separator}{from}-{to}");
        }
        match self.stretches.len() {
            0..=NAMED_STRETCHES => {}
            all => {
                let _ = write!(text, " and {} more", all - NAMED_STRETCHES);
            }
        }
        Some(text)
    }

    /// All of them together.
    pub fn seconds(&self) -> f64 {
        let lengths = self
            .stretches
            .iter()
            .map(|stretch| stretch.to_seconds - stretch.from_seconds);
        lengths.sum()
    }
}

/// `00:12:03.1`
pub(super) fn clock(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "tenths of a video's seconds"
    )]
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    let (seconds, minutes, hours) = (tenths / 10 % 60, tenths / 600 % 60, tenths / 36_000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{}", tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(from_seconds: f64, to_seconds: f64) -> DamagedStretch {
        DamagedStretch {
            from_seconds,
            to_seconds,
            samples: 1,
            reason: "it is broken".to_owned(),
        }
    }

    #[test]
    fn damage_is_said_in_a_line() {
        let said = |stretches: &[DamagedStretch]| {
            Damage {
                stretches: stretches.to_vec(),
                samples: 1,
            }
            .summary()
        };
        assert_eq!(said(&[]), None);
        let one = said(&[stretch(723.1, 725.5)]);
        assert_eq!(one.as_deref(), Some("2.4 s damaged: 00:12:03.1-00:12:05.5"));
        let many = said(&vec![stretch(3601.0, 3602.0); 5]).expect("damage");
        assert!(many.starts_with("5.0 s damaged: 01:00:01.0-01:00:02.0, "), "{many}");
        assert!(many.ends_with(" and 2 more"), "{many}");
    }
}
