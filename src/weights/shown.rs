//! Words out of files that others wrote, as messages show them: short, and nothing that a terminal would obey.

use std::fmt::{Debug, Display};

/// Characters of a name that a message shows.
const LONGEST: usize = 80;

/// Characters of what another library says about a file; it may repeat the file's own words.
const LONGEST_REASON: usize = 200;

/// Sides of an array that a message shows.
const MOST_SIDES: usize = 8;

/// A name, or another word of a file.
pub(super) fn shown(text: &str) -> String {
    cut(text, LONGEST)
}

/// What another library says.
pub(super) fn reason(reason: impl Display) -> String {
    cut(&reason.to_string(), LONGEST_REASON)
}

/// The sides of an array.
pub(super) fn sides(sides: &[impl Debug]) -> String {
    match sides.get(..MOST_SIDES) {
        Some(first) if sides.len() > MOST_SIDES => format!("{first:?}... of {} sides", sides.len()),
        Some(_) | None => format!("{sides:?}"),
    }
}

fn cut(text: &str, longest: usize) -> String {
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == longest {
            return format!("{shown}... ({} bytes)", text.len());
        }
        match character {
            '"' | '\'' => shown.push(character), // nothing is quoted
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_are_short_and_harmless() {
        assert_eq!(shown("features.0.weight"), "features.0.weight");
        assert_eq!(shown("it's\n"), "it's\\n");
        assert_eq!(shown("\x1b[31mos\x07\u{202e}"), "\\u{1b}[31mos\\u{7}\\u{202e}");
        let long = shown(&"A".repeat(3_000_000));
        assert!(
            long.len() < 110 && long.ends_with("A... (3000000 bytes)"),
            "{long}"
        );
        assert!(reason("B".repeat(1000)).len() < 230);
        assert_eq!(sides(&[1, 2]), "[1, 2]");
        assert!(sides(&vec![1; 2_000_000]).len() < 60);
    }
}
