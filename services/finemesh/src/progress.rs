//! Progress on stderr: bars on a terminal, one line per finished phase elsewhere.

use std::io::IsTerminal;

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use search_proto::index::IndexProgress;

/// One bar per phase of an index run.
pub(crate) struct IndexBars {
    bars: MultiProgress,
    current: Option<(String, ProgressBar)>,
}

impl IndexBars {
    pub(crate) fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            current: None,
        }
    }

    /// Shows how far a phase is; a new phase finishes the one before.
    pub(crate) fn update(&mut self, progress: &IndexProgress) {
        if self
            .current
            .as_ref()
            .is_none_or(|(phase, _)| *phase != progress.phase)
        {
            self.finish();
            let bar = self.bars.add(phase_bar(&progress.phase));
            self.current = Some((progress.phase.clone(), bar));
        }
        if let Some((_, bar)) = &self.current {
            if progress.total > 0 {
                bar.set_length(progress.total);
            }
            bar.set_position(progress.done);
        }
    }

    /// Prints a line above the bars.
    pub(crate) fn print(&self, line: &str) {
        self.bars.suspend(|| eprintln!("{line}"));
    }

    /// Ends the current phase.
    pub(crate) fn finish(&mut self) {
        if let Some((phase, bar)) = self.current.take() {
            bar.finish();
            if !std::io::stderr().is_terminal() {
                eprintln!(
                    "{phase}: {} in {}",
                    bar.position(),
                    HumanDuration(bar.elapsed())
                );
            }
        }
    }
}

fn phase_bar(phase: &str) -> ProgressBar {
    let unit = if phase == "read" {
        "documents"
    } else {
        "passages"
    };
    let template = format!(
        "{phase:<7} {{bar:30}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left"
    );
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}
