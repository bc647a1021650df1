//! A progress bar on stderr, drawn only on a terminal, and notes that do not tear it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::stderr::{Notice, say};

/// How far a long command has come.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Counts bytes; without a total it only shows how many and how fast.
    pub(crate) fn bytes(total: Option<u64>) -> Self {
        Self::new(total, "{bytes} of {total_bytes}, {bytes_per_sec}", "{bytes}, {bytes_per_sec}")
    }

    /// Counts keys.
    pub(crate) fn keys(total: Option<u64>) -> Self {
        Self::new(total, "{pos} of {len} keys, {per_sec}", "{pos} keys, {per_sec}")
    }

    /// Counts hints.
    pub(crate) fn hints(total: u64) -> Self {
        Self::new(Some(total), "{pos} of {len} hints, {per_sec}", "")
    }

    fn new(total: Option<u64>, with_total: &str, without: &str) -> Self {
        let (bar, template) = match total {
            Some(total) => {
                let template = format!("{{wide_bar}} {with_total}, {{eta}} left {{msg}}");
                (ProgressBar::new(total), template)
            }
            None => (ProgressBar::new_spinner(), format!("{{spinner}} {without} {{msg}}")),
        };
        let style = ProgressStyle::with_template(&template).expect("the templates above are valid");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// `n` more are done.
    pub(crate) fn advance(&self, n: u64) {
        self.bar.inc(n);
    }

    /// What the counts do not say.
    pub(crate) fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// A line on stderr, above the bar.
    pub(crate) fn say(&self, notice: &Notice) {
        self.bar.suspend(|| say(notice));
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
