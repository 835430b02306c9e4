//! What somebody may have meant who wrote a name that is not known.

/// The candidate that a third of the word's letters, two at least, turn it into; capitals count as small.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let edits_max = (word.len() / 3).max(2);
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= edits_max && *edits < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
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
}
