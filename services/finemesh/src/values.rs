//! Values of options that have a range of their own. What is out of it is refused before anything runs.

use std::fmt;

/// Longest budget that a request may name.
pub(crate) const MAX_BUDGET_MS: u32 = 600_000;
/// Highest rate that `bench` offers: more than one client sends in time.
const MAX_RATE: f64 = 100_000.0;

/// Milliseconds for an answer, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget(Option<u32>);

impl Budget {
    /// No limit.
    pub(crate) const NONE: Self = Self(None);

    pub(crate) const fn of_ms(ms: u32) -> Self {
        Self(Some(ms))
    }

    /// Reads `none` or a number of milliseconds, 1 to 600000.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let ms = text.parse().ok();
        let allowed = ms.filter(|ms| (1..=MAX_BUDGET_MS).contains(ms));
        let refusal = || format!("must be 1 to {MAX_BUDGET_MS} milliseconds, or none");
        allowed.map(Self::of_ms).ok_or_else(refusal)
    }

    /// Milliseconds, where there is a limit.
    pub(crate) fn ms(self) -> Option<u32> {
        self.0
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(formatter, "{ms} ms"),
            None => formatter.write_str("none"),
        }
    }
}

/// Reads a number of requests per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    let allowed = rate.filter(|rate| *rate > 0.0 && *rate <= MAX_RATE);
    allowed.ok_or_else(|| format!("must be more than 0 and at most {MAX_RATE} a second"))
}

/// Reads a part of the whole, 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok();
    let allowed = share.filter(|share| (0.0..=1.0).contains(share));
    allowed.ok_or_else(|| "must be 0 to 1".to_owned())
}

/// Reads a part that leaves something on either side.
pub(crate) fn inner_share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok();
    let allowed = share.filter(|share| *share > 0.0 && *share < 1.0);
    allowed.ok_or_else(|| "must be more than 0 and less than 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_milliseconds_or_none() {
        assert_eq!(Budget::parse("none"), Ok(Budget::NONE));
        assert_eq!(
            Budget::parse("25").map(|budget| budget.to_string()),
            Ok("25 ms".to_owned())
        );
        for wrong in ["0", "600001", "-1", "1.5", "", "None", "NaN"] {
            assert!(Budget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for wrong in ["NaN", "inf", "-inf", "", "x", "-1"] {
            assert!(rate(wrong).is_err(), "{wrong}");
            assert!(share(wrong).is_err(), "{wrong}");
            assert!(inner_share(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0").is_err() && rate("0.5").is_ok());
        assert!(share("0").is_ok() && share("1").is_ok() && share("1.1").is_err());
        assert!(inner_share("0").is_err() && inner_share("1").is_err());
    }
}
