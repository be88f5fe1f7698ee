//! A launched worker must not outlive its launcher, whatever ends that one.

use std::io::Read;

/// Ends this process when the launcher is gone: by the kernel's parent-death signal, which also reaches a stopped
/// process, and by the end of standard input, a pipe that the launcher holds open for nothing else.
pub fn end_with_launcher() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "no parent-death signal; relying on standard input");
    }
    // A launcher that died before the signal was asked for sends none, but its end of the pipe is closed by then.
    let watching = std::thread::Builder::new().name("medley-launcher-watch".into()).spawn(|| {
        let mut byte = [0];
        loop {
            match std::io::stdin().read(&mut byte) {
                Ok(0) => leave("the launcher is gone"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => leave("standard input broke"),
            }
        }
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "cannot watch standard input");
    }
}

fn leave(reason: &str) -> ! {
    tracing::error!("{reason}: leaving");
    std::process::exit(medley_common::exit::FAILURE)
}
