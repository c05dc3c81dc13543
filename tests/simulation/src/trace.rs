//! What happened, in order. Clones share it.

use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

use fxhash::FxHasher;
use tokio::time::Instant;

/// Lines shown of a run that failed.
const LINES_SHOWN: usize = 80;

/// The record of one run.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    seed: u64,
    began: Instant,
    lines: Vec<String>,
    hash: FxHasher,
    violation: Option<String>,
    granted: u64,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        Trace(Arc::new(Mutex::new(Inner {
            seed,
            began: Instant::now(),
            lines: Vec::new(),
            hash: FxHasher::default(),
            violation: None,
            granted: 0,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event.
    pub(crate) fn note(&self, what: impl fmt::Display) {
        let mut inner = self.lock();
        let line = format!("{:>9.3} {what}", inner.began.elapsed().as_secs_f64());
        inner.hash.write(line.as_bytes());
        inner.lines.push(line);
    }

    /// Notes that an order was granted.
    pub(crate) fn count_grant(&self) {
        self.lock().granted += 1;
    }

    /// Notes the first violation; what follows from it is not told.
    pub(crate) fn violate(&self, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION {what}"));
        self.lock()
            .violation
            .get_or_insert_with(|| what.to_string());
    }

    /// What was violated, if anything was.
    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// A hash over all events and their times.
    pub fn hash(&self) -> u64 {
        self.lock().hash.finish()
    }

    /// Orders that were granted.
    pub fn granted(&self) -> u64 {
        self.lock().granted
    }

    /// Events noted.
    pub fn events(&self) -> usize {
        self.lock().lines.len()
    }

    /// Every event, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        writeln!(
            f,
            "seed {}: {} events, hash {:016x}",
            inner.seed,
            inner.lines.len(),
            inner.hash.finish()
        )?;
        if inner.violation.is_some() {
            let from = inner.lines.len().saturating_sub(LINES_SHOWN);
            for line in &inner.lines[from..] {
                writeln!(f, "{line}")?;
            }
        }
        if let Some(violation) = &inner.violation {
            writeln!(f, "violated: {violation}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
