//! What every error for people must be.

/// Asserts that an error is one line and says something.
///
/// # Panics
/// Where it is not.
pub fn assert_one_line(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.trim().is_empty(), "an error that says nothing");
    assert_eq!(text.lines().count(), 1, "more than a line: {text:?}");
}
