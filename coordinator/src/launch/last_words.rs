//! What a worker that ended said of its end.

/// The line of a log that is likeliest to say why its process ended: the last error or panic, else the last line that
/// nobody logged. Information and warnings came before the end and say nothing of it.
pub(super) fn last_words(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // Of equals `max_by_key` takes the last.
    let telling = lines.iter().enumerate().filter(|(_, line)| weight(line) > INFORMATION);
    let (at, line) = telling.max_by_key(|(_, line)| weight(line))?;
    let follows_on = is_panic(line) && lines.get(at + 1).is_some_and(|next| weight(next) == PLAIN);
    Some(if follows_on { format!("{line} {}", lines[at + 1]) } else { (*line).to_owned() })
}

const INFORMATION: u8 = 0;
const PLAIN: u8 = 1;
const ERROR: u8 = 2;

fn weight(line: &str) -> u8 {
    // A line of the log format begins with the time, and then says how grave it is.
    let mut words = line.split_whitespace();
    let is_logged =
        words.next().is_some_and(|time| time.ends_with('Z') && time.starts_with(|c: char| c.is_ascii_digit()));
    match words.next() {
        Some("ERROR") if is_logged => ERROR,
        Some("WARN" | "INFO" | "DEBUG" | "TRACE") if is_logged => INFORMATION,
        _ if is_panic(line) || line.starts_with("error: ") || line.starts_with("what():") => ERROR,
        _ if line.starts_with("note: run with `RUST_BACKTRACE") => INFORMATION,
        _ => PLAIN,
    }
}

fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const INFO: &str = "2026-11-21T13:06:17.123456Z  INFO medley_worker::cli::work: assigned rank=1 workers=2";
    const WARN: &str = "2026-11-21T13:06:18.123456Z  WARN medley_worker::session::watch: no parent-death signal";
    const FAULT: &str = "2026-11-21T13:06:19.123456Z ERROR medley_worker::cli::work: this worker's part failed";

    #[test]
    fn what_says_most_of_the_end_is_quoted() {
        let panic = "thread 'main' (7) panicked at src/a.rs:1:2:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";
        for (log, expected) in [
            (format!("{INFO}\n{FAULT}\nleaving\n{INFO}"), FAULT),
            (format!("{FAULT}\n{INFO}\nerror: the disk is full\n{INFO}"), "error: the disk is full"),
            (format!("{panic}\n{INFO}"), "thread 'main' (7) panicked at src/a.rs:1:2: index out of bounds"),
            (
                "terminate called after throwing 'c10::Error'\n  what():  bad alloc\nframe #0".into(),
                "what():  bad alloc",
            ),
            (format!("{INFO}\nKilled by the moon\n{INFO}"), "Killed by the moon"),
            (format!("{WARN}\nKilled by the moon\n{WARN}"), "Killed by the moon"),
            (format!("one\n{INFO}\ntwo \n\n  \n"), "two"),
        ] {
            assert_eq!(last_words(&log).as_deref(), Some(expected), "{log}");
        }
        assert_eq!(last_words(" \n"), None);
        assert_eq!(last_words(&format!("{INFO}\n{WARN}\n{INFO}")), None);
    }
}
