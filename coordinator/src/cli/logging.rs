//! Where logs go: to standard error, past the progress bars, and to the run directory.

use crate::output::terminal::Screen;
use medley_common::run_directory;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
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
    let file = std::fs::create_dir_all(run_directory.join(run_directory::LOGS))
        .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
    let (to_file, failure) = match file {
        Ok(file) => (Some(Mutex::new(file)), None),
        Err(error) => (None, Some(error)),
    };
    let to_file = to_file.map(|file| {
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file).with_filter(filter(LevelFilter::INFO))
    });
    // Whoever embeds this and logs already keeps their own logging.
    let _ = tracing_subscriber::registry().with(to_screen).with(to_file).try_init();
    if let Some(error) = failure {
        tracing::warn!("cannot write {}: {error}; logs go to standard error only", path.display());
    }
}

fn filter(default: LevelFilter) -> EnvFilter {
    EnvFilter::builder()
        .with_env_var(medley_common::environment::LOG_FILTER)
        .with_default_directive(default.into())
        .from_env_lossy()
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
