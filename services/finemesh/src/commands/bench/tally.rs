//! What became of the requests of one rate, counted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use evaluation::load::Arrival;
use hdrhistogram::Histogram;
use search_core::{Criticality, ErrorKind, micros};
use search_proto::search::SearchResponse;
use service_kit::status::kind_of;
use tonic::Status;

use super::run::Seen;
use crate::json::reason_name;

/// An answer may be so much later than its budget: it has a way to go.
const GRACE: Duration = Duration::from_millis(5);
/// Significant digits of the recorded times.
const DIGITS: u8 = 3;
/// Longest time that is told apart.
const LONGEST_US: u64 = 3_600_000_000;

/// Whether a request matters, as its header says.
pub(super) const fn criticality_of(arrival: Arrival) -> Criticality {
    if arrival.is_critical {
        Criticality::Critical
    } else {
        Criticality::Sheddable
    }
}

/// One offered rate and what came of it. Arrivals before the measured span are asked and not counted.
pub(super) struct Rate {
    pub(super) per_second: f64,
    measured: Range<Duration>,
    in_time: Option<Duration>,
    /// When the last counted request ended.
    last_ended: Duration,
    pub(super) all: Tally,
    pub(super) by_class: BTreeMap<Criticality, Tally>,
}

impl Rate {
    /// `measured`: from the beginning of the load.
    pub(super) fn new(per_second: f64, measured: Range<Duration>, budget_ms: Option<u32>) -> Self {
        Self {
            per_second,
            last_ended: measured.end,
            measured,
            in_time: budget_ms.map(|ms| Duration::from_millis(ms.into()) + GRACE),
            all: Tally::new(),
            by_class: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, seen: &Seen) {
        if !self.measured.contains(&seen.arrival.at) {
            return;
        }
        self.last_ended = self.last_ended.max(seen.ended);
        let class = self.by_class.entry(criticality_of(seen.arrival));
        for tally in [&mut self.all, class.or_insert_with(Tally::new)] {
            tally.add(seen, self.in_time);
        }
    }

    /// Answers per second, until the last of them was there: a mesh that is behind answers fewer than it is asked.
    pub(super) fn achieved(&self, tally: &Tally) -> f64 {
        tally.answered as f64 / (self.last_ended - self.measured.start).as_secs_f64()
    }

    /// Answers per second that were in time; none where there is no budget.
    pub(super) fn goodput(&self, tally: &Tally) -> Option<f64> {
        self.in_time?;
        let seconds = (self.measured.end - self.measured.start).as_secs_f64();
        Some(tally.in_time as f64 / seconds)
    }

    /// Part of the requests whose answer or error came too late; none where there is no budget.
    pub(super) fn late_share(&self, tally: &Tally) -> Option<f64> {
        self.in_time.and_then(|_| tally.share(tally.late))
    }
}

/// Counts of requests.
pub(super) struct Tally {
    pub(super) arrivals: u64,
    /// Without an error.
    pub(super) answered: u64,
    /// Answered, and within the budget.
    in_time: u64,
    /// Answered or refused after the budget.
    late: u64,
    /// Answers that said so.
    pub(super) degraded: u64,
    /// Answers in which a stage did less, by stage and reason.
    pub(super) reasons: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// By the name of their code.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Of answers, from when they were due.
    pub(super) latency_us: Times,
    /// Of answers, by stage, as it reports.
    pub(super) stage_us: BTreeMap<String, Times>,
    /// From when a request was due until it was sent.
    pub(super) behind_us: Times,
}

impl Tally {
    fn new() -> Self {
        Self {
            arrivals: 0,
            answered: 0,
            in_time: 0,
            late: 0,
            degraded: 0,
            reasons: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency_us: Times::new(),
            stage_us: BTreeMap::new(),
            behind_us: Times::new(),
        }
    }

    fn add(&mut self, seen: &Seen, in_time: Option<Duration>) {
        let due = seen.arrival.at;
        let latency = seen.ended.saturating_sub(due);
        let is_late = in_time.is_some_and(|in_time| latency > in_time);
        self.arrivals += 1;
        self.late += u64::from(is_late);
        self.behind_us.add(micros(seen.sent.saturating_sub(due)));
        match &seen.answer {
            Ok(answer) => {
                self.answered += 1;
                self.in_time += u64::from(!is_late);
                self.latency_us.add(micros(latency));
                self.add_answer(answer);
            }
            Err(status) => *self.errors.entry(code_name(status)).or_default() += 1,
        }
    }

    fn add_answer(&mut self, answer: &SearchResponse) {
        self.degraded += u64::from(answer.degraded);
        for report in &answer.stages {
            let times = self.stage_us.entry(report.stage.clone());
            times.or_insert_with(Times::new).add(report.wall_us);
            if let Some(reason) = reason_name(report.reason()) {
                let reasons = self.reasons.entry(report.stage.clone()).or_default();
                *reasons.entry(reason).or_default() += 1;
            }
        }
    }

    /// Part of the arrivals; none where there are none.
    pub(super) fn share(&self, count: u64) -> Option<f64> {
        part(count, self.arrivals)
    }

    /// Part of the answers that are degraded; none where there are none.
    pub(super) fn degraded_share(&self) -> Option<f64> {
        part(self.degraded, self.answered)
    }
}

fn part(count: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| count as f64 / of as f64)
}

/// Recorded times, in microseconds.
pub(super) struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, DIGITS);
        Self(histogram.expect("three digits of an hour are a histogram"))
    }

    /// What is longer than an hour counts as an hour.
    fn add(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    /// So much of them is at most this; none where nothing was recorded.
    pub(super) fn quantile(&self, quantile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile))
    }

    pub(super) fn max(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }
}

/// As the gRPC specification writes it.
fn code_name(status: &Status) -> &'static str {
    match kind_of(status) {
        ErrorKind::InvalidArgument => "INVALID_ARGUMENT",
        ErrorKind::NotFound => "NOT_FOUND",
        ErrorKind::FailedPrecondition => "FAILED_PRECONDITION",
        ErrorKind::ResourceExhausted => "RESOURCE_EXHAUSTED",
        ErrorKind::Unavailable => "UNAVAILABLE",
        ErrorKind::DeadlineExceeded => "DEADLINE_EXCEEDED",
        ErrorKind::Cancelled => "CANCELLED",
        ErrorKind::DataLoss => "DATA_LOSS",
        ErrorKind::Unimplemented => "UNIMPLEMENTED",
        ErrorKind::Internal => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use search_proto::search::{StageReason, StageReport};

    use super::*;

    fn seen(at_ms: u64, latency_ms: u64, answer: Result<SearchResponse, Status>) -> Seen {
        let at = Duration::from_millis(at_ms);
        Seen {
            arrival: Arrival {
                at,
                query: 0,
                is_critical: at_ms.is_multiple_of(2000),
            },
            sent: at + Duration::from_millis(1),
            ended: at + Duration::from_millis(latency_ms),
            answer,
        }
    }

    fn degraded() -> SearchResponse {
        SearchResponse {
            degraded: true,
            stages: vec![StageReport {
                stage: "rerank".to_owned(),
                reason: StageReason::Deadline.into(),
                wall_us: 900,
                ..StageReport::default()
            }],
            ..SearchResponse::default()
        }
    }

    fn rate(budget_ms: Option<u32>) -> Rate {
        let mut rate = Rate::new(
            1.0,
            Duration::from_secs(1)..Duration::from_secs(5),
            budget_ms,
        );
        rate.add(&seen(0, 9999, Ok(degraded())));
        rate.add(&seen(1000, 105, Ok(SearchResponse::default())));
        rate.add(&seen(2000, 106, Ok(degraded())));
        rate.add(&seen(3000, 1101, Err(Status::deadline_exceeded(""))));
        rate.add(&seen(4000, 3, Err(Status::resource_exhausted(""))));
        rate.add(&seen(5000, 9999, Ok(degraded())));
        rate
    }

    #[test]
    fn only_what_is_due_in_the_measured_span_counts() {
        let rate = rate(Some(100));
        assert_eq!((rate.all.arrivals, rate.all.answered), (4, 2));
        let errors = BTreeMap::from([("DEADLINE_EXCEEDED", 1), ("RESOURCE_EXHAUSTED", 1)]);
        assert_eq!(rate.all.errors, errors);
        assert_eq!(rate.all.reasons["rerank"]["deadline"], 1);
        assert_eq!(rate.all.degraded_share(), Some(0.5));
        assert_eq!(rate.all.behind_us.max(), Some(1000));
    }

    #[test]
    fn an_answer_may_be_some_milliseconds_after_its_budget() {
        let rate = rate(Some(100));
        assert_eq!(rate.goodput(&rate.all), Some(0.25));
        assert_eq!(rate.late_share(&rate.all), Some(0.5));
        let critical = &rate.by_class[&Criticality::Critical];
        assert_eq!(
            (critical.arrivals, rate.late_share(critical)),
            (2, Some(0.5))
        );
    }

    #[test]
    fn without_a_budget_nothing_is_late() {
        let rate = rate(None);
        assert_eq!(
            (rate.goodput(&rate.all), rate.late_share(&rate.all)),
            (None, None)
        );
    }

    #[test]
    fn a_mesh_that_is_behind_answers_fewer_than_it_is_asked() {
        let mut rate = Rate::new(2.0, Duration::ZERO..Duration::from_secs(2), None);
        for at_ms in [0, 500, 1000, 1500] {
            rate.add(&seen(at_ms, 2500, Ok(SearchResponse::default())));
        }
        assert_eq!(rate.achieved(&rate.all), 1.0);
    }

    #[test]
    fn quantiles_are_exact_to_three_digits() {
        let mut times = Times::new();
        assert_eq!((times.quantile(0.5), times.max()), (None, None));
        for us in 1..=100_000 {
            times.add(us);
        }
        let median = times.quantile(0.5).unwrap() as f64;
        assert!((median / 50_000.0 - 1.0).abs() < 0.001, "{median}");
        times.add(u64::MAX);
        assert!(times.max().unwrap() >= LONGEST_US);
    }
}
