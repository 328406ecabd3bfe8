//! What ends a command: one line for people, and an exit code for scripts.

use std::error::Error;
use std::fmt;

/// What a script can do about a failure. (2 is clap's, for a command line that is wrong.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Nothing by itself: the text says what is wrong.
    Failed = 1,
    /// Nobody is there who could do it, or not now, and nothing was done: try again later.
    Unavailable = 3,
    /// The certificate is not accepted, or its role does not do.
    Denied = 4,
    /// Perhaps it was done: look before it is done again.
    Unknown = 5,
}

/// Why a command failed, as the one line that goes to standard error.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    exit: Exit,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        // Causes may bring line breaks of their own; a failure is one line.
        let text = text.into();
        Self {
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
            exit: Exit::Failed,
        }
    }

    /// The same, with this exit code.
    pub(crate) fn with(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: Error> From<E> for Failure {
    /// The error and its causes, each said once: many errors repeat their source's text.
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(text)
    }
}

/// Says what was being done when something failed.
pub(crate) trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let Failure { text, exit } = error.into();
            Failure::new(format!("{what}: {text}")).with(exit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::new("a\n  b\r\nc").to_string(), "a b c");
        let error = std::io::Error::other("disk on fire");
        let result: Result<(), _> = Err(error);
        let failure = result.context("cannot read x").expect_err("failure");
        assert_eq!(failure.to_string(), "cannot read x: disk on fire");
        assert_eq!(failure.exit(), Exit::Failed);
        let away: Result<(), _> = Err(Failure::new("away").with(Exit::Unavailable));
        let failure = away.context("node 3").expect_err("failure");
        assert_eq!(failure.exit(), Exit::Unavailable);
    }
}
