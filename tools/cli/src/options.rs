//! Values of options that several commands share.

/// A number of seconds above 0.
///
/// # Errors
/// Says what it is instead.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("a number of seconds above 0, for example 2.5".to_owned()),
    }
}
