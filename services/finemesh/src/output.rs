//! Results go to standard output, progress and errors to standard error.

use std::fmt;
use std::io::{self, Write};

/// Prints one result and a line feed.
///
/// # Errors
/// When standard output is full or closed; a reader that has gone is no failure of the command, see [`reader_has_gone`].
pub(crate) fn say(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Whether a command ended because nobody reads its output any more, as with `| head`.
pub(crate) fn reader_has_gone(error: &anyhow::Error) -> bool {
    let is_broken_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error
        .downcast_ref::<io::Error>()
        .is_some_and(is_broken_pipe)
}

/// Text from outside without what would steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a [2Jb");
    }
}
