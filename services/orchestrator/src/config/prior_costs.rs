//! What the stages of the head are reckoned to cost before any of it was measured.

use crate::costs::PriorCosts;
use search_core::CostPrior;
use serde::{Deserialize, Serialize};
use service_kit::Problems;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What takes longer is no call of a search, and no item of one; a nanosecond is what a clock tells.
const COSTS_US: RangeInclusive<f64> = 0.001..=60e6;

/// The section as it stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPriorCosts {
    /// Items are passages.
    pub rescore: RawCost,
    /// Items are passages.
    pub late_interaction: RawCost,
    /// Items are tokens of query and passage together.
    pub rerank: RawCost,
}

/// What a stage costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCost {
    /// Microseconds of a call, whatever it is about.
    pub call_us: f64,
    /// Microseconds of each item.
    pub item_us: f64,
}

impl Default for RawPriorCosts {
    /// What is measured on two cores.
    fn default() -> Self {
        let cost = |call_us, item_us| RawCost { call_us, item_us };
        Self {
            rescore: cost(500.0, 2.0),
            late_interaction: cost(500.0, 10.0),
            rerank: cost(3000.0, 50.0),
        }
    }
}

impl RawPriorCosts {
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        for (stage, cost) in [
            ("rescore", self.rescore),
            ("late_interaction", self.late_interaction),
            ("rerank", self.rerank),
        ] {
            for (key, value) in [("call_us", cost.call_us), ("item_us", cost.item_us)] {
                problems.require(
                    COSTS_US.contains(&value),
                    format!("{path}.{stage}.{key}"),
                    || format!("must be {} to {}", COSTS_US.start(), COSTS_US.end()),
                );
            }
        }
    }

    pub(super) fn build(self) -> PriorCosts {
        PriorCosts {
            rescore: self.rescore.build(),
            late_interaction: self.late_interaction.build(),
            rerank: self.rerank.build(),
        }
    }
}

impl RawCost {
    fn build(self) -> CostPrior {
        CostPrior {
            fixed: duration(self.call_us),
            per_item: duration(self.item_us),
        }
    }
}

/// What cannot be written so was refused when it was checked.
fn duration(micros: f64) -> Duration {
    Duration::try_from_secs_f64(micros / 1e6).unwrap_or_default()
}
