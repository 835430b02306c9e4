//! Whole-system tests only; see `end_to_end/main.rs` for what they show.
