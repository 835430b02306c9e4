//! Which names an agent's key may register.
//!
//! A pattern is a path like a name; in each part one `*` may stand for any characters but `/`. It allows the
//! names that it matches and all below them: `x01/stage` allows `x01/stage` and `x01/stage/axis1`, and not
//! `x01/stage2`.

use crate::registry::NAME_BYTES_MAX;
use std::{fmt, str::FromStr};

/// One pattern. See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    pub fn allows(&self, name: &str) -> bool {
        let mut names = name.split('/');
        self.0.split('/').all(|part| names.next().is_some_and(|name| part_matches(part, name)))
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_part = |part: &str| {
            let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
            !part.is_empty() && part.chars().all(is_known) && part.matches('*').count() <= 1
        };
        if text.len() > NAME_BYTES_MAX || text.split('/').count() < 2 || !text.split('/').all(is_part) {
            return Err(format!(
                "{text:?} is no pattern of names: <beamline>/<agent>, with at most one '*' in each part"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn part_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)) // the rest: the two never overlap
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_allows_what_it_matches_and_what_is_below() {
        let cases = [
            ("x01/laser", "x01/laser", true),
            ("x01/laser", "x01/laser/shutter", true),
            ("x01/laser", "x01/laser2", false),
            ("x01/laser", "x01", false),
            ("x01/laser", "x02/laser", false),
            ("x01/*", "x01/anything/at/all", true),
            ("x01/*", "x02/anything", false),
            ("x01/readout-*", "x01/readout-12", true),
            ("x01/readout-*", "x01/readout", false),
            ("x01/a*a", "x01/a", false),
            ("x01/*/axis", "x01/stage/axis", true),
            ("x01/*/axis", "x01/stage", false),
        ];
        for (pattern, name, allowed) in cases {
            assert_eq!(pattern.parse::<NamePattern>().expect("a pattern").allows(name), allowed, "{pattern} {name}");
        }
    }

    #[test]
    fn text_that_is_no_pattern_is_refused() {
        for bad in ["", "*", "x01", "x01/", "x01//a", "x01/**", "x01/a b", "x01/\"", "x01/\n"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
    }
}
