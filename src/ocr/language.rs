//! What the models read, by language.

/// Primary tags of BCP 47 whose script the models know: Chinese, and what is written in Latin letters.
const READ: &[&str] = &[
    "zh", "cmn", "yue", "en", "af", "az", "bs", "ca", "cs", "cy", "da", "de", "es", "et", "eu", "fi", "fr", "ga", "gl",
    "hr", "hu", "id", "is", "it", "la", "lt", "lv", "ms", "mt", "nb", "nl", "nn", "no", "pl", "pt", "ro", "sk", "sl",
    "sq", "sv", "sw", "tl", "tr", "vi",
];

/// Whether the models read what is written in this language, by its tag (`zh-Hans`, `en_US`).
pub fn reads_language(tag: &str) -> bool {
    let primary = tag.split(['-', '_']).next().unwrap_or_default();
    READ.iter().any(|read| read.eq_ignore_ascii_case(primary.trim()))
}

#[cfg(test)]
mod tests {
    use super::reads_language;

    #[test]
    fn languages_are_known_by_their_primary_tag() {
        for tag in ["zh-Hans", "zh", "ZH-hant", "en_US", "en-US", "fr"] {
            assert!(reads_language(tag), "{tag}");
        }
        for tag in ["ar", "ja", "th-TH", "", "english", "zhh"] {
            assert!(!reads_language(tag), "{tag}");
        }
    }
}
