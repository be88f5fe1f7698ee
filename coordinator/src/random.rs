//! Random bytes that nobody can guess, for names and secrets. Training draws its numbers elsewhere, from its seed.

use std::io::Read;

/// `count` random bytes from the system.
///
/// # Errors
/// Where the system has no source of them.
pub fn bytes(count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// `count` random bytes, hexadecimal.
///
/// # Errors
/// Those of [`bytes`].
pub fn hex(count: usize) -> std::io::Result<String> {
    Ok(bytes(count)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn two_draws_differ() {
        let (one, other) = (super::hex(16).unwrap(), super::hex(16).unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
