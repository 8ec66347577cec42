//! Finding a text on a frame, where it may go over several boxes. Pure.

/// A text that is looked for: without spaces, in lower case, as boxes are compared.
#[derive(Debug, Clone)]
pub(super) struct Needle(Vec<char>);

impl Needle {
    /// `None` if nothing is left to look for.
    pub(super) fn new(text: &str) -> Option<Self> {
        let needle: Vec<char> = plain(text).collect();
        (!needle.is_empty()).then_some(Self(needle))
    }

    /// The places of the boxes, given in reading order, that it goes over; all its occurrences.
    pub(super) fn find<'a>(&self, boxes: impl Iterator<Item = &'a str>) -> Vec<u32> {
        let mut letters: Vec<(char, u32)> = Vec::new();
        for (place, text) in (0..).zip(boxes) {
            letters.extend(plain(text).map(|letter| (letter, place)));
        }
        let mut found = Vec::new();
        for window in letters.windows(self.0.len()) {
            if window.iter().map(|(letter, _)| letter).eq(&self.0) {
                found.extend(window.iter().map(|(_, place)| *place));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_over_boxes_spaces_and_cases() {
        for (needle, boxes, expected) in [
            ("together", &["Work", "Together"][..], &[1][..]),
            ("work together", &["Work", "Together"], &[0, 1]),
            ("一起合作", &["让", "一", "起", "合", "作", "吧"], &[1, 2, 3, 4]),
            ("aa", &["a", "aa"], &[0, 1]),
            ("ab", &["ab", "x", "ab"], &[0, 2]),
            ("z", &["a"], &[]),
            ("longer than all", &["a"], &[]),
        ] {
            let found = Needle::new(needle).expect("a text").find(boxes.iter().copied());
            assert_eq!(found, expected, "{needle}");
        }
        assert!(Needle::new(" \n").is_none());
    }
}
