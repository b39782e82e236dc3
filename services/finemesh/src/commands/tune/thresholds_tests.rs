//! A pipeline of both retrievers and a cross-encoder. Of every other query the sparse stage knows as much as all stages do, and its margin
//! says so.

use evaluation::beir::Judgements;
use search_proto::search::{Hit, ScoreTrail, SearchResponse, StageReport, StageStatus};

use super::*;
use crate::commands::tune::replay::Replay;

fn step(stage: &str, value: f64, weight: f64) -> ScoreTrail {
    ScoreTrail {
        stage: stage.to_owned(),
        raw: value,
        normalized: value,
        weight,
        ..ScoreTrail::default()
    }
}

fn hit(id: &str, score: f64) -> Hit {
    let trail = vec![
        step("sparse", score, 0.28),
        step("dense", score, 0.42),
        step("rerank", score, 0.3),
    ];
    Hit {
        id: id.to_owned(),
        trail,
        ..Hit::default()
    }
}

/// All stages find the relevant document, with or without the last one, in some queries more clearly than in others.
fn whole_answer(number: usize) -> SearchResponse {
    let second = 1.0 + (number % 100) as f64 / 100.0;
    SearchResponse {
        hits: vec![hit("relevant", 4.0), hit("b", second), hit("c", 1.0)],
        stages: vec![StageReport {
            stage: "rerank".to_owned(),
            candidates_in: 3,
            status: StageStatus::Complete.into(),
            ..StageReport::default()
        }],
        ..SearchResponse::default()
    }
}

fn query(number: usize) -> AskedQuery {
    let (ndcg, margin) = if number.is_multiple_of(2) {
        (1.0, 0.9)
    } else {
        (0.4, 0.1)
    };
    AskedQuery {
        replay: Replay::new(
            whole_answer(number),
            Judgements::from([("relevant".to_owned(), 1)]),
        ),
        later_ms: [0.0, 0.0, 20.0],
        sparse_alone: Some(SparseAlone {
            ndcg,
            lexical_share: 0.0,
            margin: Some(margin),
            saved_ms: 30.0,
        }),
    }
}

fn asked(queries: usize) -> Asked {
    let mut asked = Asked::default();
    for hit in whole_answer(0).hits {
        asked.seen.add(&hit.trail);
    }
    asked.queries = (0..queries).map(query).collect();
    asked
}

const VALUES: Values = Values {
    alpha: 0.6,
    later: [0.0, 0.0, 0.3],
};

fn split(queries: usize) -> Split {
    let half = queries / 2;
    Split {
        fitting: (0..half).collect(),
        held_out: (half..queries).collect(),
    }
}

fn fitted(asked: &Asked) -> Vec<FittedThreshold> {
    let fit = ThresholdFit {
        asked,
        values: VALUES,
        split: &split(asked.queries.len()),
        tolerance: 0.005,
        seed: 1,
    };
    fit.fit()
}

#[test]
fn each_threshold_is_fitted_beside_those_before_it() {
    let fitted = fitted(&asked(460));
    let [lexical, sparse, gate] = fitted.as_slice() else {
        panic!("{}", fitted.len());
    };
    assert_eq!(
        (lexical.threshold, lexical.value),
        (Threshold::LexicalShare, None)
    );
    assert_eq!(
        (sparse.threshold, sparse.value),
        (Threshold::SparseMargin, Some(0.9))
    );
    assert_eq!(
        (sparse.held_out.share, sparse.held_out.saved_ms),
        (0.5, 15.0)
    );
    // The other half is not routed, and the gate leaves out nearly all of it: only the least clear ones are below.
    assert_eq!(gate.threshold, Threshold::Gate(2));
    let share = gate.held_out.share;
    assert!((0.45..=0.5).contains(&share), "{share}");
    assert!((gate.held_out.saved_ms - 20.0 * share).abs() < 1e-9);
    assert!(fitted.iter().all(|one| one.held_out.regret.high == 0.0));
}

#[test]
fn few_queries_turn_nothing_on() {
    let fitted = fitted(&asked(440));
    assert_eq!(fitted.len(), 3);
    assert!(fitted.iter().all(|one| one.value.is_none()));
}

/// Where some stage failed, what the sparse stage lacks cannot be told.
#[test]
fn answers_that_cannot_be_compared_are_not_routed() {
    let mut asked = asked(460);
    for query in &mut asked.queries[2..] {
        query.sparse_alone = None;
    }
    let fitted = fitted(&asked);
    let [gate] = fitted.as_slice() else {
        panic!("{}", fitted.len());
    };
    assert_eq!(gate.threshold, Threshold::Gate(2));
    assert!(gate.value.is_some());
    assert!(gate.held_out.share > 0.9, "all are gated instead");

    asked.queries.clear();
    let fit = ThresholdFit {
        asked: &asked,
        values: VALUES,
        split: &split(0),
        tolerance: 0.005,
        seed: 1,
    };
    let all = [Threshold::Gate(2)];
    assert_eq!(fit.all(), all, "nothing is routed where nothing can be");
}
