//! What a look at an installation finds. Each area looks at its own; `captionacc doctor` gathers and prints.

use serde::Serialize;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and something will not.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    /// `ok`, `warning` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How grave it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it; none where all is well.
    pub fix: Option<String>,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// All is well.
    pub fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            fix: None,
        });
    }

    /// It works, and something will not.
    pub fn warning(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Warning, check, message, fix);
    }

    /// It does not work.
    pub fn error(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Error, check, message, fix);
    }

    /// Those of another area after these.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// The gravest level among them.
    pub fn gravest(&self) -> Level {
        self.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    fn fault(&mut self, level: Level, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            check,
            level,
            message: message.into(),
            fix: Some(fix.into()),
        });
    }
}

/// A number of things, in the word for one or for several.
pub fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// `1.5 GB`, in powers of 1024 as `df -h` has them.
pub fn bytes_text(bytes: u64) -> String {
    let mut units = ["bytes", "KB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut amount = bytes as f64;
    while amount >= 1024.0 {
        let Some(larger) = units.next() else { break };
        amount /= 1024.0;
        unit = larger;
    }
    let decimals = usize::from(unit != "bytes" && amount < 10.0);
    format!("{amount:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes_are_short() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KB"),
            (20 << 30, "20 GB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
    }
}
