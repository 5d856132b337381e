//! The log, on standard error, in the same shape as the agent's.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;

use crate::cli::{LogFormat, LogLevel};

/// Starts logging: lines for people on a terminal, JSON otherwise, unless `format` says which. The first call in a
/// process counts.
pub fn start(format: LogFormat, level: LogLevel) {
    let terminal = io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(LevelFilter::from(level));
    // An error means that a log is there already, as in tests.
    let _ = if human {
        builder.with_target(false).with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    };
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}
