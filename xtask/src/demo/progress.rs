//! What the demo is doing: a spinner on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// The steps of the demo, one at a time.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    current: Option<(String, Instant)>,
}

impl Progress {
    /// Nothing shown yet.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, current: None }
    }

    /// Ends the step before, begins this one.
    pub(crate) fn step(&mut self, what: &str) {
        self.end();
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
        self.current = Some((what.to_owned(), Instant::now()));
    }

    /// Ends the last step.
    pub(crate) fn finish(mut self) {
        self.end();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn end(&mut self) {
        if let (Some((what, start)), Some(bar)) = (self.current.take(), &self.bar) {
            bar.println(format!("{:5.1} s  {what}", start.elapsed().as_secs_f64()));
        }
    }
}
