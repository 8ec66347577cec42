//! How characters are written: which stand each in a square of their own, and which make words.

use unicode_width::UnicodeWidthChar;

/// Whether a character stands in a square of its own, without spaces beside it: Han, kana, full-width forms.
pub(super) fn is_wide(character: char) -> bool {
    character.width() == Some(2)
}

/// Whether a character is as wide as its neighbours: quotation marks, dashes and dots that Chinese and Latin text share.
fn is_of_either_width(character: char) -> bool {
    character.width() == Some(1) && character.width_cjk() == Some(2) && !character.is_alphanumeric()
}

/// Whether nothing stands between `before` and `after` when they are joined: a wide character is at the seam.
pub fn is_tight(before: &str, after: &str) -> bool {
    before.chars().next_back().is_some_and(is_wide) || after.chars().next().is_some_and(is_wide)
}

/// Whether a space may stand between `before` and `after` although none was read: a Chinese or Japanese character is on one
/// side, a letter or digit of a word on the other. Wide punctuation has its space within itself.
pub(super) fn may_be_apart(before: &str, after: &str) -> bool {
    let ends = [before.chars().next_back(), after.chars().next()];
    let [Some(before), Some(after)] = ends else {
        return false;
    };
    is_wide(before) != is_wide(after) && before.is_alphanumeric() && after.is_alphanumeric()
}

/// The parts of `text` that have a box each, in order, as ranges of places in it: wide characters one by one, other text by
/// words. White space is part of none. An item of `text` may be several characters (a letter and its accent).
pub(super) fn parts(text: &[&str]) -> Vec<std::ops::Range<usize>> {
    let first = |place: usize| text.get(place).and_then(|item| item.chars().next());
    let is_alone = |place: usize| {
        let Some(character) = first(place) else { return false };
        if !is_of_either_width(character) {
            return is_wide(character);
        }
        // Beside a wide character it is wide, unless a letter holds it on the other side: 他说“OK”。
        let before = place.checked_sub(1).and_then(first);
        let touches = |neighbour: Option<char>, check: fn(char) -> bool| neighbour.is_some_and(check);
        let is_word = |neighbour: Option<char>| touches(neighbour, |c| c.is_alphanumeric() && !is_wide(c));
        let after = first(place + 1);
        (touches(before, is_wide) || touches(after, is_wide)) && !is_word(before) && !is_word(after)
    };
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    let mut is_word_open = false;
    for (place, item) in text.iter().enumerate() {
        if item.trim().is_empty() {
            is_word_open = false;
        } else if is_alone(place) {
            parts.push(place..place + 1);
            is_word_open = false;
        } else if is_word_open {
            parts.last_mut().expect("a word is open").end = place + 1;
        } else {
            parts.push(place..place + 1);
            is_word_open = true;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_stand_alone_and_letters_make_words() {
        let check = |text: &str, expected: &[&str]| {
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let items: Vec<&str> = characters.iter().map(String::as_str).collect();
            let found: Vec<String> = parts(&items).into_iter().map(|part| items[part].concat()).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("", &[]);
        check("我用 Google 找", &["我", "用", "Google", "找"]);
        check("CC BY 4.0：只要", &["CC", "BY", "4.0", "：", "只", "要"]);
        check("It's easy, isn't it?", &["It's", "easy,", "isn't", "it?"]);
        check("他说：“好。”", &["他", "说", "：", "“", "好", "。", "”"]);
        check("“Some rights,” she said", &["“Some", "rights,”", "she", "said"]);
        check("他说“OK”吧", &["他", "说", "“OK”", "吧"]);
        check("ひらがな ＡＢ", &["ひ", "ら", "が", "な", "Ａ", "Ｂ"]);
    }

    #[test]
    fn a_space_stands_between_words_only() {
        assert!(!is_tight("two", "lines"));
        assert!(is_tight("两行", "lines"));
        assert!(is_tight("two", "行"));
        assert!(is_tight("好！", "See"));
    }
}
