//! The sizes of the processor's caches, from which blocks and chunks get theirs.

use std::path::Path;
use std::sync::OnceLock;

/// What is taken where the system does not tell: the second-level cache of most server processors' cores.
const USUAL: usize = 1 << 20;

/// Bytes of a core's second-level cache, between 256 KiB and 4 MiB.
pub fn second_level() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let found = of_level(Path::new("/sys/devices/system/cpu/cpu0/cache"), 2);
        found.unwrap_or(USUAL).clamp(256 << 10, 4 << 20)
    })
}

/// The size of the data cache of a level, as Linux describes a core's caches in `directory`.
fn of_level(directory: &Path, level: u32) -> Option<usize> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        let holds_data = text("type")?.trim() != "Instruction";
        (holds_data && text("level")?.trim().parse() == Ok(level)).then(|| size(text("size")?.trim())).flatten()
    })
}

/// Bytes of a size such as `1024K` or `32M`.
fn size(text: &str) -> Option<usize> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_second_data_cache_is_found_among_the_others() {
        let directory = tempfile::tempdir().unwrap();
        for (index, kind, level, size) in
            [(0, "Data", 1, "32K"), (1, "Instruction", 2, "64K"), (2, "Unified", 2, "2048K"), (3, "Unified", 3, "32M")]
        {
            let cache = directory.path().join(format!("index{index}"));
            std::fs::create_dir(&cache).unwrap();
            std::fs::write(cache.join("type"), format!("{kind}\n")).unwrap();
            std::fs::write(cache.join("level"), format!("{level}\n")).unwrap();
            std::fs::write(cache.join("size"), format!("{size}\n")).unwrap();
        }
        assert_eq!(of_level(directory.path(), 2), Some(2 << 20));
        assert_eq!(of_level(directory.path(), 3), Some(32 << 20));
        assert_eq!(of_level(directory.path(), 4), None);
        assert_eq!(of_level(&directory.path().join("none"), 2), None);
        assert!((256 << 10..=4 << 20).contains(&second_level()));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("1024K"), Some(1 << 20));
        assert_eq!(size("1G"), None);
        assert_eq!(size("K"), None);
    }
}
