//! Which calls are refused first where not all can be served (Google SRE, "Handling Overload": criticality).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How much an answer is missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// Somebody waits for it. So is a call that says nothing.
    #[default]
    Critical,
    /// Its caller can come later or do without, as a batch job can: refused before anything critical is.
    Sheddable,
}

/// A word that names no criticality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `critical` or `sheddable`")]
pub struct UnknownCriticality;

impl Criticality {
    /// The word for headers and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Sheddable => "sheddable",
        }
    }

    /// Of the places of a queue those that it may use. For what is sheddable that is a quarter: a place to wait that stays free costs
    /// no throughput, and what is critical finds room when it comes in a burst.
    pub fn places(self, all: usize) -> usize {
        match self {
            Self::Critical => all,
            Self::Sheddable => all.div_ceil(4),
        }
    }

    /// Of the time that a call has that part which it may wait: likewise.
    pub fn waiting_time(self, all: Duration) -> Duration {
        match self {
            Self::Critical => all,
            Self::Sheddable => all / 4,
        }
    }
}

impl FromStr for Criticality {
    type Err = UnknownCriticality;

    fn from_str(word: &str) -> Result<Self, UnknownCriticality> {
        match word {
            "critical" => Ok(Self::Critical),
            "sheddable" => Ok(Self::Sheddable),
            _ => Err(UnknownCriticality),
        }
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_it_is_written_and_no_other() {
        for criticality in [Criticality::Critical, Criticality::Sheddable] {
            assert_eq!(criticality.as_str().parse(), Ok(criticality));
        }
        for unknown in ["", "Critical", " critical", "critical_plus", "\u{0}"] {
            assert_eq!(unknown.parse::<Criticality>(), Err(UnknownCriticality));
        }
    }

    #[test]
    fn what_says_nothing_is_critical() {
        assert_eq!(Criticality::default(), Criticality::Critical);
    }
}
