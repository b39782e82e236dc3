//! How often long work asks whether it is still wanted.

use crate::error::Error;

/// Steps between two questions: some hundred microseconds, and the question costs some ten nanoseconds.
pub(crate) const STEPS_PER_CHECK: u32 = 4096;

/// Counts the steps of one piece of work.
pub(crate) struct Pace<'a> {
    proceed: &'a dyn Fn() -> Result<(), Error>,
    steps: u32,
}

impl<'a> Pace<'a> {
    /// Asks before the first step.
    pub(crate) fn start(proceed: &'a dyn Fn() -> Result<(), Error>) -> Result<Self, Error> {
        proceed()?;
        Ok(Self { proceed, steps: 0 })
    }

    /// To be called at each step, before it is made.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        self.steps += 1;
        if self.steps < STEPS_PER_CHECK {
            return Ok(());
        }
        self.steps = 0;
        (self.proceed)()
    }
}
