//! The weights of a pipeline, as trails show them: a mesh says what its stages did, not how it is configured.

use anyhow::{Result, ensure};
use evaluation::tuning::Weight;
use search_proto::search::ScoreTrail;

/// The stages that score the head, in the order of the funnel.
pub(super) const LATER: [&str; 3] = ["rescore", "late_interaction", "rerank"];
/// A part of a score that is smaller than this tells nothing: divided by it, a weight is mostly rounding.
const LEAST_SHARE: f64 = 1e-6;
/// Digits that a configured weight is taken to have, as a power of ten.
const CONFIGURED_TO: f64 = 1e6;

/// One value of a pipeline's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Weight of the dense score; the sparse one has the rest.
    Alpha,
    /// Weight of a later stage, by its place in [`LATER`].
    Later(usize),
}

impl Setting {
    /// Section and key below the pipeline's.
    pub(super) fn path(self) -> [&'static str; 2] {
        match self {
            Self::Alpha => ["fusion", "alpha"],
            Self::Later(place) => [LATER[place], "weight"],
        }
    }
}

/// All weights of a funnel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Values {
    pub(super) alpha: f64,
    /// Parallel to [`LATER`].
    pub(super) later: [f64; LATER.len()],
}

/// The greatest weight that any trail shows: a stage that gave all documents of a query the same score has none there.
#[derive(Debug, Default)]
pub(super) struct SeenWeights {
    alpha: Option<f64>,
    later: [Option<f64>; LATER.len()],
    /// Stages that scored some document.
    scored: [bool; LATER.len()],
    /// Both retrievers scored some document.
    fused: bool,
}

impl SeenWeights {
    /// Takes the weights of one hit's trail, where each stage that scored it has taken its part of those before.
    pub(super) fn add(&mut self, trail: &[ScoreTrail]) {
        let weight = |stage: &str| {
            let step = trail.iter().find(|step| step.stage == stage);
            step.map(|step| step.weight)
        };
        let mut rest = 1.0;
        for (place, stage) in LATER.iter().enumerate().rev() {
            let Some(weight) = weight(stage) else {
                continue;
            };
            self.scored[place] = true;
            if rest > LEAST_SHARE {
                let own = weight / rest;
                keep_greatest(&mut self.later[place], own);
                rest *= 1.0 - own;
            }
        }
        if let (Some(dense), Some(sparse)) = (weight("dense"), weight("sparse")) {
            self.fused = true;
            if dense + sparse > LEAST_SHARE {
                keep_greatest(&mut self.alpha, dense / (dense + sparse));
            }
        }
    }

    /// Whether the scores of both retrievers become one.
    pub(super) fn fuses(&self) -> bool {
        self.fused
    }

    /// Later stages that tell something, by their places in [`LATER`].
    pub(super) fn later_places(&self) -> impl Iterator<Item = usize> {
        (0..LATER.len()).filter(|place| self.later[*place] > Some(0.0))
    }

    /// What can be fitted, in the order of the funnel.
    ///
    /// # Errors
    /// When there is nothing, or a weight cannot be told.
    pub(super) fn settings(&self) -> Result<Vec<Setting>> {
        for (place, stage) in LATER.iter().enumerate() {
            ensure!(
                !self.scored[place] || self.later[place].is_some(),
                "the weight of {stage} cannot be told: all that it scores is replaced by a later stage"
            );
        }
        ensure!(
            !self.fused || self.alpha.is_some(),
            "the weight of dense cannot be told: all that it scores is replaced by a later stage"
        );
        let later = self.later_places().map(Setting::Later);
        let alpha = self.alpha.map(|_| Setting::Alpha);
        let settings: Vec<Setting> = alpha.into_iter().chain(later).collect();
        // Without a second stage there is nothing to leave out either.
        ensure!(
            !settings.is_empty(),
            "there is one stage that scores, or none that did: no weight can be fitted, and no threshold"
        );
        Ok(settings)
    }

    /// A setting as it is now, and what it may be: a stage with no weight is no stage, and is refused in a configuration.
    pub(super) fn weight(&self, setting: Setting) -> Weight {
        let (seen, may_be_zero) = match setting {
            Setting::Alpha => (self.alpha, true),
            Setting::Later(place) => (self.later[place], false),
        };
        Weight {
            default: seen.unwrap_or(0.0),
            may_be_zero,
        }
    }

    /// All weights, these settings having these values.
    pub(super) fn values(&self, settings: &[Setting], values: &[f64]) -> Values {
        let mut all = Values {
            alpha: self.alpha.unwrap_or(0.0),
            later: self.later.map(|weight| weight.unwrap_or(0.0)),
        };
        for (setting, value) in settings.iter().zip(values) {
            match setting {
                Setting::Alpha => all.alpha = *value,
                Setting::Later(place) => all.later[*place] = *value,
            }
        }
        all
    }
}

fn keep_greatest(greatest: &mut Option<f64>, weight: f64) {
    let weight = (weight * CONFIGURED_TO).round() / CONFIGURED_TO;
    *greatest = Some(greatest.map_or(weight, |other| other.max(weight)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(steps: &[(&str, f64)]) -> Vec<ScoreTrail> {
        let step = |(stage, weight): &(&str, f64)| ScoreTrail {
            stage: (*stage).to_owned(),
            weight: *weight,
            ..ScoreTrail::default()
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn what_later_stages_took_is_given_back() {
        let mut seen = SeenWeights::default();
        let (alpha, late, rerank) = (0.6, 0.2, 0.3);
        let legs = (1.0 - late) * (1.0 - rerank);
        seen.add(&trail(&[
            ("sparse", (1.0 - alpha) * legs),
            ("dense", alpha * legs),
            ("late_interaction", late * (1.0 - rerank)),
            ("rerank", rerank),
        ]));
        // A query for which the last stage said nothing.
        seen.add(&trail(&[("sparse", 0.4), ("dense", 0.6), ("rerank", 0.0)]));
        let settings = seen.settings().unwrap();
        assert_eq!(
            settings,
            [Setting::Alpha, Setting::Later(1), Setting::Later(2)]
        );
        let defaults = settings.iter().map(|setting| seen.weight(*setting).default);
        assert_eq!(defaults.collect::<Vec<_>>(), [0.6, 0.2, 0.3]);
        let values = seen.values(&settings, &[0.5, 0.25, 0.35]);
        assert_eq!((values.alpha, values.later), (0.5, [0.0, 0.25, 0.35]));
    }

    #[test]
    fn a_stage_whose_scores_are_replaced_is_seen_behind_the_window_of_the_other_only() {
        let mut seen = SeenWeights::default();
        seen.add(&trail(&[
            ("sparse", 0.0),
            ("rescore", 0.0),
            ("rerank", 1.0),
        ]));
        assert!(seen.settings().unwrap_err().to_string().contains("rescore"));
        seen.add(&trail(&[("sparse", 0.5), ("rescore", 0.5)]));
        assert_eq!(
            seen.settings().unwrap(),
            [Setting::Later(0), Setting::Later(2)]
        );
    }

    #[test]
    fn a_fusion_that_is_replaced_as_a_whole_is_not_seen() {
        let mut seen = SeenWeights::default();
        seen.add(&trail(&[("sparse", 0.0), ("dense", 0.0), ("rerank", 1.0)]));
        assert!(seen.settings().unwrap_err().to_string().contains("dense"));
        seen.add(&trail(&[("sparse", 0.4), ("dense", 0.6)]));
        assert_eq!(
            seen.settings().unwrap(),
            [Setting::Alpha, Setting::Later(2)]
        );
    }

    #[test]
    fn one_stage_has_no_weight_to_fit() {
        let mut seen = SeenWeights::default();
        seen.add(&trail(&[("sparse", 1.0)]));
        assert!(seen.settings().is_err());
    }
}
