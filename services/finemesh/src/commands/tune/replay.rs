//! An answer under other weights than it was given with, and with stages left out of it.
//!
//! What a trail says of the retrievers, a score on the common scale, does not depend on weights, and the blend of a later stage is
//! [`search_core::rerank::merge`] of the stage's raw scores. So the answer is computed here as the orchestrator does it, but for what is
//! not seen: documents behind those of the answer, and what a stage would say about a document that only other weights bring into its
//! window. Such a document keeps the score that it has, as one does which a stage did not come to.

use std::cmp::Ordering;

use evaluation::beir::Judgements;
use evaluation::metrics::ndcg_at;
use search_core::rerank::{Term, merge, total};
use search_core::routing::margin_in_deviations;
use search_proto::search::{Hit, SearchResponse, StageReport, StageStatus};

use super::weights::{LATER, Values};

/// Depth of nDCG.
pub(super) const HEAD: usize = 10;

/// From which margin of the first document on a later stage is left out, parallel to [`LATER`]; none: it always runs.
pub(super) type Gates = [Option<f64>; LATER.len()];

/// All stages run.
pub(super) const NO_GATES: Gates = [None; LATER.len()];

/// What the stages said about the documents of one answer.
#[derive(Debug)]
pub(super) struct Replay {
    documents: Vec<Document>,
    /// Documents that each later stage was given.
    windows: [usize; LATER.len()],
    /// Later stages of which it is seen how clear their window was, and what they made of all of it.
    is_whole: [bool; LATER.len()],
    judged: Judgements,
}

#[derive(Debug)]
struct Document {
    id: String,
    legs: Vec<Leg>,
    /// What each later stage said.
    own: [Option<f32>; LATER.len()],
}

/// What a retriever said.
#[derive(Debug, Clone, Copy)]
struct Leg {
    is_dense: bool,
    normalized: f64,
}

/// A document with what its score is made of.
#[derive(Debug)]
struct Candidate {
    document: usize,
    score: f64,
    terms: Vec<Term>,
}

impl Replay {
    pub(super) fn new(answer: SearchResponse, judged: Judgements) -> Self {
        let report = |stage: &str| {
            let mut reports = answer.stages.iter();
            reports.find(|report| report.stage == stage)
        };
        let window = |stage: &str| report(stage).map_or(0, window);
        let is_whole = |stage: &str| {
            let is_complete = |report: &StageReport| report.status() == StageStatus::Complete;
            report(stage).is_some_and(is_complete) && window(stage) <= answer.hits.len()
        };
        Self {
            windows: LATER.map(window),
            is_whole: LATER.map(is_whole),
            documents: answer.hits.into_iter().map(document).collect(),
            judged,
        }
    }

    /// nDCG@10 of the answer under these weights and gates.
    pub(super) fn ndcg(&self, values: &Values, gates: &Gates) -> f64 {
        let ranked = self.ranked(values, gates);
        let ids = ranked.iter().map(|candidate| self.id(candidate));
        ndcg_at(HEAD, &ids.collect::<Vec<_>>(), &self.judged)
    }

    /// Whether a later stage did all that it was asked to.
    pub(super) fn has_whole(&self, stage: usize) -> bool {
        self.is_whole[stage]
    }

    /// How clear the first document is before a later stage, which its gate is compared with. None where that cannot be said, or is not
    /// seen: such a stage always runs.
    pub(super) fn margin(&self, values: &Values, gates: &Gates, stage: usize) -> Option<f64> {
        self.margin_in_window(stage, &self.ranked_before(stage, values, gates))
    }

    /// The first documents, best first: as many as are of any consequence.
    fn ranked(&self, values: &Values, gates: &Gates) -> Vec<Candidate> {
        self.ranked_before(LATER.len(), values, gates)
    }

    /// The same, before a later stage.
    fn ranked_before(&self, end: usize, values: &Values, gates: &Gates) -> Vec<Candidate> {
        let mut ranked: Vec<Candidate> = (0..self.documents.len())
            .map(|document| self.fused(document, values.alpha))
            .collect();
        self.sort(&mut ranked);
        ranked.truncate(self.windows.into_iter().fold(HEAD, usize::max));
        for (stage, gate) in gates.iter().enumerate().take(end) {
            if !self.is_gated(stage, *gate, &ranked) {
                self.score_head(stage, values.later[stage], &mut ranked);
            }
        }
        ranked
    }

    fn is_gated(&self, stage: usize, gate: Option<f64>, ranked: &[Candidate]) -> bool {
        gate.is_some_and(|gate| {
            let margin = self.margin_in_window(stage, ranked);
            margin.is_some_and(|margin| margin >= gate)
        })
    }

    fn margin_in_window(&self, stage: usize, ranked: &[Candidate]) -> Option<f64> {
        let head = ranked.iter().take(self.windows[stage]);
        let scores: Vec<f64> = head.map(|candidate| candidate.score).collect();
        margin_in_deviations(&scores).filter(|_| self.is_whole[stage])
    }

    fn fused(&self, document: usize, alpha: f64) -> Candidate {
        let legs = &self.documents[document].legs;
        let weight = |leg: &Leg| match (legs.len(), leg.is_dense) {
            (1, _) => 1.0,
            (_, true) => alpha,
            (_, false) => 1.0 - alpha,
        };
        let term = |leg: &Leg| Term {
            normalized: leg.normalized,
            weight: weight(leg),
        };
        let terms: Vec<Term> = legs.iter().map(term).collect();
        Candidate {
            document,
            score: total(&terms),
            terms,
        }
    }

    /// Lets a later stage score the head, which ends with the last document that it said something about.
    fn score_head(&self, stage: usize, weight: f64, ranked: &mut [Candidate]) {
        let window = self.windows[stage].min(ranked.len());
        let own = ranked[..window]
            .iter()
            .map(|candidate| self.documents[candidate.document].own[stage]);
        let own: Vec<Option<f32>> = own.collect();
        let end = own
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        let head = &mut ranked[..end];
        let earlier = head
            .iter_mut()
            .map(|candidate| std::mem::take(&mut candidate.terms));
        let merged = merge(&earlier.collect::<Vec<_>>(), &own[..end], weight);
        for (candidate, terms) in head.iter_mut().zip(merged.terms) {
            candidate.score = total(&terms);
            candidate.terms = terms;
        }
        self.sort(head);
    }

    /// Best first; equal scores by document id.
    fn sort(&self, candidates: &mut [Candidate]) {
        candidates.sort_unstable_by(|left, right| {
            let by_score: Ordering = right.score.total_cmp(&left.score);
            by_score.then_with(|| self.id(left).cmp(self.id(right)))
        });
    }

    fn id(&self, candidate: &Candidate) -> &str {
        &self.documents[candidate.document].id
    }
}

/// Documents that a stage was given.
fn window(report: &StageReport) -> usize {
    usize::try_from(report.candidates_in).unwrap_or(usize::MAX)
}

fn document(hit: Hit) -> Document {
    let mut legs = Vec::new();
    let mut own = [None; LATER.len()];
    for step in hit.trail {
        match LATER.iter().position(|stage| *stage == step.stage) {
            // A stage's score is an f32 that travels as an f64.
            Some(place) => own[place] = Some(step.raw as f32),
            None => legs.push(Leg {
                is_dense: step.stage == "dense",
                normalized: step.normalized,
            }),
        }
    }
    Document {
        id: hit.id,
        legs,
        own,
    }
}

#[cfg(test)]
mod tests {
    use search_proto::search::ScoreTrail;

    use super::*;

    /// Documents by their id, with what the retrievers say on the common scale and what the cross-encoder says.
    fn replay(documents: &[(&str, f64, f64, Option<f64>)], window: u64) -> Replay {
        let step = |stage: &str, raw, normalized| ScoreTrail {
            stage: stage.to_owned(),
            raw,
            normalized,
            ..ScoreTrail::default()
        };
        let hit = |(id, sparse, dense, rerank): &(&str, f64, f64, Option<f64>)| Hit {
            id: (*id).to_owned(),
            trail: [step("sparse", 0.0, *sparse), step("dense", 0.0, *dense)]
                .into_iter()
                .chain(rerank.map(|raw| step("rerank", raw, 0.0)))
                .collect(),
            ..Hit::default()
        };
        let answer = SearchResponse {
            hits: documents.iter().map(hit).collect(),
            stages: vec![StageReport {
                stage: "rerank".to_owned(),
                candidates_in: window,
                status: StageStatus::Complete.into(),
                ..StageReport::default()
            }],
            ..SearchResponse::default()
        };
        Replay::new(answer, Judgements::from([("a".to_owned(), 1)]))
    }

    fn order(replay: &Replay, alpha: f64, rerank: f64) -> Vec<&str> {
        let values = Values {
            alpha,
            later: [0.0, 0.0, rerank],
        };
        let ranked = replay.ranked(&values, &NO_GATES);
        ranked
            .iter()
            .map(|candidate| replay.id(candidate))
            .collect()
    }

    #[test]
    fn alpha_weighs_the_retrievers_and_equal_scores_go_by_id() {
        let replay = replay(
            &[
                ("c", 1.0, 0.0, None),
                ("a", 0.0, 1.0, None),
                ("b", 0.5, 0.5, None),
            ],
            0,
        );
        assert_eq!(order(&replay, 0.0, 0.3), ["c", "b", "a"]);
        assert_eq!(order(&replay, 1.0, 0.3), ["a", "b", "c"]);
        assert_eq!(order(&replay, 0.5, 0.3), ["a", "b", "c"]);
    }

    #[test]
    fn a_later_stage_changes_its_window_only() {
        let documents = [
            ("a", 1.0, 1.0, Some(0.0)),
            ("b", 0.8, 0.8, Some(9.0)),
            ("c", 0.1, 0.1, None),
        ];
        let replay = replay(&documents, 2);
        assert_eq!(order(&replay, 0.5, 0.1), ["a", "b", "c"]);
        assert_eq!(order(&replay, 0.5, 1.0), ["b", "a", "c"]);
    }

    #[test]
    fn who_comes_into_a_window_by_other_weights_keeps_its_score() {
        let documents = [
            ("a", 1.0, 0.0, Some(1.0)),
            ("b", 0.9, 0.1, Some(5.0)),
            ("c", 0.0, 1.0, None),
        ];
        let replay = replay(&documents, 2);
        assert_eq!(order(&replay, 0.0, 1.0), ["b", "a", "c"]);
        assert_eq!(order(&replay, 1.0, 1.0), ["c", "b", "a"]);
    }

    #[test]
    fn the_quality_is_that_of_the_order() {
        let replay = replay(&[("c", 1.0, 0.0, None), ("a", 0.0, 1.0, None)], 0);
        let ndcg = |alpha| {
            let values = Values {
                alpha,
                later: [0.0; 3],
            };
            replay.ndcg(&values, &NO_GATES)
        };
        assert_eq!(ndcg(1.0), 1.0);
        assert!((ndcg(0.0) - 1.0 / 3_f64.log2()).abs() < 1e-12);
    }

    #[test]
    fn a_gate_leaves_its_stage_out_where_the_first_document_is_clear() {
        let documents = [
            ("b", 4.0, 4.0, Some(0.0)),
            ("a", 1.0, 1.0, Some(9.0)),
            ("c", 1.0, 1.0, Some(1.0)),
        ];
        let values = Values {
            alpha: 0.5,
            later: [0.0, 0.0, 1.0],
        };
        let seen = replay(&documents, 3);
        let margin = seen.margin(&values, &NO_GATES, 2).unwrap();
        assert!((margin - 3.0 / 2_f64.sqrt()).abs() < 1e-12, "{margin}");
        let ndcg = |gate| seen.ndcg(&values, &[None, None, Some(gate)]);
        assert_eq!(ndcg(margin + 0.1), 1.0);
        assert!(ndcg(margin) < 0.7, "as without the stage");

        // What a stage does that saw two documents, or some that nobody sees here, cannot be told.
        for window in [2, 4] {
            let unseen = replay(&documents, window);
            assert_eq!(unseen.margin(&values, &NO_GATES, 2), None);
            assert_eq!(
                unseen.ndcg(&values, &[None, None, Some(0.0)]),
                unseen.ndcg(&values, &NO_GATES)
            );
        }
    }
}
