//! How far a change of the cluster is, on stderr: a bar where a person watches, a line for each step otherwise.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// Steps that are done.
    pub(super) done: usize,
    /// All steps; as many done means the end.
    pub(super) total: usize,
    /// Grows while a step is under way; for telling slow from stuck.
    pub(super) moved: u64,
}

impl Stage {
    /// So many of so many steps, none of which has parts.
    pub(super) fn of(done: usize, total: usize) -> Self {
        Stage {
            done,
            total,
            moved: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done >= self.total
    }
}

/// Shows stages of one change.
pub(super) struct Progress {
    /// What is under way, such as `node 5 joins`.
    title: String,
    /// What the steps are.
    steps: &'static str,
    bar: Option<ProgressBar>,
    shown: Option<(usize, usize)>,
}

impl Progress {
    pub(super) fn new(title: String, steps: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(&title, steps));
        Progress {
            title,
            steps,
            bar,
            shown: None,
        }
    }

    pub(super) fn show(&mut self, stage: &Stage) {
        if let Some(bar) = &self.bar {
            bar.set_length(stage.total as u64);
            bar.set_position(stage.done as u64);
            return;
        }
        if let Some(line) = self.line(stage) {
            eprintln!("{line}");
        }
    }

    /// What there is to say of a stage that has not been said.
    fn line(&mut self, stage: &Stage) -> Option<String> {
        let now = (stage.done, stage.total);
        let is_new = self.shown.replace(now) != Some(now);
        is_new.then(|| self.text(stage))
    }

    /// The stage in words.
    pub(super) fn text(&self, stage: &Stage) -> String {
        format!(
            "{}: {} of {} {}",
            self.title, stage.done, stage.total, self.steps
        )
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(title: &str, steps: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}, {elapsed}")
        .expect("the template is well formed, as a test shows");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar.set_prefix(title.to_owned());
    bar.set_message(steps);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_once() {
        let mut progress = Progress {
            title: "node 5 joins".to_owned(),
            steps: "groups",
            bar: None,
            shown: None,
        };
        let told = |progress: &mut Progress, done| progress.line(&Stage::of(done, 17));
        assert_eq!(
            told(&mut progress, 0).as_deref(),
            Some("node 5 joins: 0 of 17 groups")
        );
        assert_eq!(told(&mut progress, 0), None);
        assert_eq!(
            told(&mut progress, 3).as_deref(),
            Some("node 5 joins: 3 of 17 groups")
        );
    }

    #[test]
    fn the_bar_can_be_drawn() {
        let bar = bar("node 5 joins", "groups");
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_length(17);
        bar.set_position(3);
        assert_eq!((bar.position(), bar.length()), (3, Some(17)));
        bar.finish_and_clear();
    }
}
