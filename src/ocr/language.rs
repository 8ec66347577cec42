//! Which languages the models read.

/// Primary subtags (ISO 639) of languages whose writing the recognition model has all characters of.
const READ: [&str; 30] = [
    "af", "ca", "cs", "da", "de", "en", "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id", "is", "it", "la", "lb",
    "ms", "nb", "nl", "no", "pl", "pt", "sk", "sl", "sv", "yue", "zh",
];

/// Whether text in the language of a tag (BCP 47: `zh-Hans`, `en-US`, `fr`) is read; letter case and what follows the language
/// itself make no difference.
pub fn reads_language(tag: &str) -> bool {
    let primary = tag.split(['-', '_']).next().unwrap_or_default();
    READ.iter().any(|language| language.eq_ignore_ascii_case(primary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_known_by_its_first_part() {
        for tag in ["zh", "zh-Hans", "ZH_TW", "en-US", "fr"] {
            assert!(reads_language(tag), "{tag}");
        }
        for tag in ["", "-", "th", "ko-KR", "english", "ar"] {
            assert!(!reads_language(tag), "{tag}");
        }
    }
}
