//! medley
fn main() {}
