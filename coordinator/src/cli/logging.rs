//! Where logs go: to standard error, past the progress bars, and to the run directory.

use crate::output::terminal::Screen;
use medley_common::run_directory;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The coordinator's log in a run directory.
const FILE: &str = "coordinator.log";

/// Starts logging for a run. `RUST_LOG` filters; by default standard error gets warnings where it shows bars and
/// more where it does not, and the file gets what is of interest afterwards.
pub fn start(run_directory: &Path, screen: &Screen, is_quiet: bool) {
    let level = match (is_quiet, Screen::is_terminal()) {
        (true, _) => LevelFilter::ERROR,
        (false, true) => LevelFilter::WARN,
        (false, false) => LevelFilter::INFO,
    };
    let to_screen = tracing_subscriber::fmt::layer()
        .without_time()
        .with_target(false)
        .with_ansi(Screen::is_terminal())
        .with_writer(ToScreen(screen.clone()))
        .with_filter(filter(level));
    let path = run_directory.join(run_directory::LOGS).join(FILE);
    let to_file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Mutex::new(ToFile { path, file: None }))
        .with_filter(filter(LevelFilter::INFO));
    // Whoever embeds this and logs already keeps their own logging.
    let _ = tracing_subscriber::registry().with(to_screen).with(to_file).try_init();
}

/// The log file, opened once the run directory is there: a run that is refused leaves none.
struct ToFile {
    path: PathBuf,
    file: Option<File>,
}

impl Write for ToFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        }
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}

fn filter(default: LevelFilter) -> EnvFilter {
    let asked = std::env::var(medley_common::environment::LOG_FILTER).unwrap_or_default();
    let builder = EnvFilter::builder().with_default_directive(default.into());
    if asked.is_empty() {
        // What a bucket's client tries again comes to light when it gives up.
        builder.parse_lossy(format!("object_store={}", default.min(LevelFilter::WARN)))
    } else {
        builder.parse_lossy(asked)
    }
}

struct ToScreen(Screen);

impl<'a> MakeWriter<'a> for ToScreen {
    type Writer = ScreenWriter;

    fn make_writer(&'a self) -> ScreenWriter {
        ScreenWriter(self.0.clone())
    }
}

struct ScreenWriter(Screen);

impl Write for ScreenWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
