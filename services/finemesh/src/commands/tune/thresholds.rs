//! The thresholds from which on stages are left out: of the routing to the sparse stage, and of the gates of the later stages.
//!
//! They are fitted one after the other in the order of the funnel, under the tuned weights, each with those before it as they were fitted and
//! without those behind it: what each one costs and saves adds up to what all of them do, and what those before it cost is not its to spend. How one is fitted is in
//! [`evaluation::thresholds`].

use evaluation::thresholds::{self, Case, Effect};
use evaluation::tuning::Split;

use super::ask::{Asked, AskedQuery, SparseAlone};
use super::replay::{Gates, NO_GATES};
use super::weights::{LATER, Values};

/// Leaves a stage out wherever the feature is known.
const ALWAYS: f64 = 0.0;

/// One threshold of a pipeline's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threshold {
    /// How much of the query asks for words.
    LexicalShare,
    /// How clear the sparse stage's first score is.
    SparseMargin,
    /// How clear the first document is before a later stage, by its place in [`LATER`].
    Gate(usize),
}

impl Threshold {
    /// Section and key below the pipeline's.
    pub(super) fn path(self) -> [&'static str; 2] {
        match self {
            Self::LexicalShare => ["routing", "lexical_share"],
            Self::SparseMargin => ["routing", "sparse_margin"],
            Self::Gate(place) => [LATER[place], "gate_margin"],
        }
    }
}

/// A threshold, and what it does to the queries that nothing was fitted on.
pub(super) struct FittedThreshold {
    pub(super) threshold: Threshold,
    /// None: the stages always run.
    pub(super) value: Option<f64>,
    pub(super) held_out: Effect,
}

/// Which thresholds are set.
#[derive(Debug, Clone, Copy)]
struct Thresholds {
    lexical_share: Option<f64>,
    sparse_margin: Option<f64>,
    gates: Gates,
}

/// How the thresholds are fitted.
pub(super) struct ThresholdFit<'a> {
    pub(super) asked: &'a Asked,
    /// The weights that are to stand beside them.
    pub(super) values: Values,
    pub(super) split: &'a Split,
    /// nDCG@10 that all of them may cost.
    pub(super) tolerance: f64,
    /// Of the intervals.
    pub(super) seed: u64,
}

impl ThresholdFit<'_> {
    /// Fits all that the pipeline has, and that queries show on both sides of the split.
    pub(super) fn fit(&self) -> Vec<FittedThreshold> {
        let mut set = Thresholds::NONE;
        let mut fit_next = |threshold| {
            let cases = |queries: &[usize]| -> Vec<Case> {
                let case = |query: &usize| self.case(*query, set, threshold);
                queries.iter().filter_map(case).collect()
            };
            let value = thresholds::fit(&cases(&self.split.fitting), self.tolerance);
            let held_out = Effect::of(&cases(&self.split.held_out), value, self.seed)?;
            set = set.with(threshold, value);
            Some(FittedThreshold {
                threshold,
                value,
                held_out,
            })
        };
        self.all().into_iter().filter_map(&mut fit_next).collect()
    }

    /// In the order of the funnel.
    fn all(&self) -> Vec<Threshold> {
        let seen = &self.asked.seen;
        let mut queries = self.asked.queries.iter();
        let may_be_routed = queries.any(|query| query.sparse_alone.is_some());
        let lexical_share = may_be_routed.then_some(Threshold::LexicalShare);
        let sparse_margin = (may_be_routed && seen.fuses()).then_some(Threshold::SparseMargin);
        let gates = seen.later_places().map(Threshold::Gate);
        let routing = lexical_share.into_iter().chain(sparse_margin);
        routing.chain(gates).collect()
    }

    /// None where it was not seen what the answer is without the stages: nothing is known then of what they are worth.
    fn case(&self, query: usize, set: Thresholds, threshold: Threshold) -> Option<Case> {
        let query = &self.asked.queries[query];
        if !query.shows(threshold) {
            return None;
        }
        let ndcg = |set| query.ndcg(&self.values, set);
        let without = set.with(threshold, Some(ALWAYS));
        Some(Case {
            feature: query.feature(&self.values, set, threshold),
            lost: ndcg(Thresholds::NONE) - ndcg(set),
            regret: ndcg(set) - ndcg(without),
            saved_ms: query.saved_ms(threshold),
        })
    }
}

impl Thresholds {
    const NONE: Self = Self {
        lexical_share: None,
        sparse_margin: None,
        gates: NO_GATES,
    };

    fn with(mut self, threshold: Threshold, value: Option<f64>) -> Self {
        match threshold {
            Threshold::LexicalShare => self.lexical_share = value,
            Threshold::SparseMargin => self.sparse_margin = value,
            Threshold::Gate(place) => self.gates[place] = value,
        }
        self
    }

    fn route(self, query: &SparseAlone) -> bool {
        let is_lexical = |threshold| query.lexical_share >= threshold;
        let is_clear = |threshold| query.margin.is_some_and(|margin| margin >= threshold);
        self.lexical_share.is_some_and(is_lexical) || self.sparse_margin.is_some_and(is_clear)
    }
}

impl AskedQuery {
    /// The sparse stage's answer, where it is the one that is given.
    fn routed(&self, set: Thresholds) -> Option<&SparseAlone> {
        self.sparse_alone.as_ref().filter(|alone| set.route(alone))
    }

    fn ndcg(&self, values: &Values, set: Thresholds) -> f64 {
        let routed = self.routed(set).map(|alone| alone.ndcg);
        routed.unwrap_or_else(|| self.replay.ndcg(values, &set.gates))
    }

    /// Whether it was seen what the answer is with the stages behind a threshold, and without them.
    fn shows(&self, threshold: Threshold) -> bool {
        match threshold {
            Threshold::LexicalShare | Threshold::SparseMargin => self.sparse_alone.is_some(),
            Threshold::Gate(place) => self.replay.has_whole(place),
        }
    }

    /// What a threshold is compared with. None where the stages are left out already, or there is nothing to compare.
    fn feature(&self, values: &Values, set: Thresholds, threshold: Threshold) -> Option<f64> {
        if self.routed(set).is_some() {
            return None;
        }
        match threshold {
            Threshold::LexicalShare => Some(self.sparse_alone?.lexical_share),
            Threshold::SparseMargin => self.sparse_alone?.margin,
            Threshold::Gate(place) => self.replay.margin(values, &set.gates, place),
        }
    }

    /// What it saves to leave out what is behind a threshold: the time until the ranking is ready, or of a later stage, which the others
    /// wait for.
    fn saved_ms(&self, threshold: Threshold) -> f64 {
        match threshold {
            Threshold::LexicalShare | Threshold::SparseMargin => {
                self.sparse_alone.map_or(0.0, |alone| alone.saved_ms)
            }
            Threshold::Gate(place) => self.later_ms[place],
        }
    }
}

#[cfg(test)]
#[path = "thresholds_tests.rs"]
mod tests;
