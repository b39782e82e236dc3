//! What is counted of answers, of their stages, and of the calls to the services. Labels are closed words: the stage, how it ended and
//! why, the service, the kind of call.

use crate::error::Service;
use crate::plan::HeadStage;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};
use search_core::{ErrorKind, StageReport};
use std::time::Duration;

/// Why a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// Something is wanted of the service.
    First,
    /// The first one takes long.
    Hedge,
    /// The first one has failed.
    Retry,
}

impl CallKind {
    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Hedge => "hedge",
            Self::Retry => "retry",
        }
    }
}

/// Counters of one service.
#[derive(Clone, Debug)]
pub(crate) struct CallCounters {
    service: KeyValue,
    calls: Counter<u64>,
    hedges_won: Counter<u64>,
    refused: Counter<u64>,
    ejections: Counter<u64>,
}

impl CallCounters {
    pub(crate) fn new(service: Service) -> Self {
        let meter = global::meter("orchestrator");
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        Self {
            service: KeyValue::new("service", service.name()),
            calls: counter(
                "orchestrator.calls",
                "Calls to a service; all but the first ones are extra",
            ),
            hedges_won: counter(
                "orchestrator.hedges_won",
                "Hedges that answered before the first call",
            ),
            refused: counter(
                "orchestrator.extra_calls_refused",
                "Hedges and retries that the budget did not allow",
            ),
            ejections: counter(
                "orchestrator.ejections",
                "Replicas left out for a time, as their calls failed or took long",
            ),
        }
    }

    pub(crate) fn call(&self, kind: CallKind) {
        let kind = KeyValue::new("kind", kind.name());
        self.calls.add(1, &[self.service.clone(), kind]);
    }

    pub(crate) fn win_hedge(&self) {
        self.add_to(&self.hedges_won);
    }

    pub(crate) fn refuse(&self) {
        self.add_to(&self.refused);
    }

    pub(crate) fn eject(&self) {
        self.add_to(&self.ejections);
    }

    fn add_to(&self, counter: &Counter<u64>) {
        counter.add(1, std::slice::from_ref(&self.service));
    }
}

/// Instruments of answers.
#[derive(Clone, Debug)]
pub(crate) struct AnswerCounters {
    answers: Counter<u64>,
    stages: Histogram<f64>,
}

impl AnswerCounters {
    pub(crate) fn new() -> Self {
        let meter = global::meter("orchestrator");
        let answers = meter.u64_counter("orchestrator.answers");
        let stages = meter.f64_histogram("orchestrator.stage.duration");
        Self {
            answers: answers
                .with_description("Searches: whole, degraded, or why there is no answer")
                .build(),
            stages: stages
                .with_unit("s")
                .with_description("Wall time of the stages of answers, by how they ended")
                .build(),
        }
    }

    /// Of an answer with these stages, or of none.
    pub(crate) fn add(&self, outcome: Result<&[StageReport], ErrorKind>) {
        let word = match outcome {
            Ok(stages) if stages.iter().any(StageReport::is_degraded) => "degraded",
            Ok(_) => "whole",
            Err(kind) => kind.as_str(),
        };
        self.answers.add(1, &[KeyValue::new("outcome", word)]);
        for report in outcome.into_iter().flatten() {
            self.stages.record(
                Duration::from_micros(report.wall_us).as_secs_f64(),
                &[
                    KeyValue::new("stage", report.stage.clone()),
                    KeyValue::new("status", report.status.as_str()),
                    KeyValue::new("reason", report.reason.map_or("", |reason| reason.as_str())),
                ],
            );
        }
    }
}

/// What a stage is reckoned to cost.
#[derive(Clone, Debug)]
pub(crate) struct CostGauge {
    seconds: Gauge<f64>,
    stage: KeyValue,
}

impl CostGauge {
    pub(crate) fn new(stage: HeadStage) -> Self {
        let meter = global::meter("orchestrator");
        let gauge = meter.f64_gauge("orchestrator.stage.cost");
        Self {
            seconds: gauge
                .with_unit("s")
                .with_description(
                    "What a stage is reckoned to cost: whatever its candidates, and for each item",
                )
                .build(),
            stage: KeyValue::new("stage", stage.name()),
        }
    }

    pub(crate) fn set(&self, fixed: Duration, per_item: Duration) {
        for (part, cost) in [("fixed", fixed), ("item", per_item)] {
            let part = KeyValue::new("part", part);
            self.seconds
                .record(cost.as_secs_f64(), &[self.stage.clone(), part]);
        }
    }
}
