//! What somebody may have meant who wrote a name that is not known.

/// Nobody means a known name by a longer word; comparing it would take long.
const WORD_BYTES_MAX: usize = 256;
/// What an error shows of a name that somebody sent.
const QUOTED_CHARS_MAX: usize = 80;

/// The candidate that a third of the word's letters, two at least, turn it into; capitals count as small.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let edits_max = (word.len() / 3).max(2);
    let word = word.to_lowercase();
    candidates
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= 4 * edits_max) // a letter has at most 4 bytes
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= edits_max && *edits < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// A name as errors show it: in quotes, its beginning if it is long.
pub fn quoted(name: &str) -> String {
    match name.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &name[..end], name.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name_and_another_word_none() {
        let known = ["x01/laser", "x01/stage", "x01/Pump"];
        assert_eq!(nearest("x01/lasre", known.into_iter()), Some("x01/laser"));
        assert_eq!(nearest("x01/pump", known.into_iter()), Some("x01/Pump"));
        assert_eq!(nearest("detector", known.into_iter()), None);
    }

    #[test]
    fn a_word_of_megabytes_is_not_compared_and_is_shown_by_its_beginning() {
        let word = "ä".repeat(10_000_000);
        assert_eq!(nearest(&word, ["x01/laser"; 1000].into_iter()), None);
        assert_eq!(quoted(&word), format!("{:?}… (20000000 bytes)", "ä".repeat(80)));
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
