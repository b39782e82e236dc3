//! The way of a query through the stages, and what each of them reports.

use crate::clients::{Encoded, Passage, Target, Timing};
use crate::documents::PassageRef;
use crate::encode::{ENCODE_STAGE, Outcome, beside};
use crate::error::SearchError;
use crate::head::Head;
use crate::peers::Mesh;
use crate::placement::Placement;
use crate::plan::{Plan, VectorStage};
use crate::ranking::Ranking;
use search_core::Address;
use search_core::micros;
use search_core::{Deadline, SnapshotId, StageReason, StageReport, StageStatus};
use service_kit::now;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) hits: Vec<Hit>,
    pub(crate) stages: Vec<StageReport>,
    pub(crate) snapshot: SnapshotId,
    pub(crate) pipeline: String,
}

impl Answer {
    pub(crate) fn is_degraded(&self) -> bool {
        self.stages.iter().any(StageReport::is_degraded)
    }
}

/// One document of an answer, by its best passage.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) shown: PassageRef,
    pub(crate) score: f64,
    pub(crate) passage: Passage,
    /// Empty unless asked for.
    pub(crate) trail: Vec<TrailEntry>,
}

impl Hit {
    /// Whether late interaction scored it.
    pub(crate) fn is_matched(&self) -> bool {
        self.trail.iter().any(TrailEntry::is_of_matching)
    }

    /// Whether these make up the score that late interaction gave the passage that is shown, but for so much each.
    pub(crate) fn is_sum_of(&self, similarities: impl Iterator<Item = f32>, rounding: f32) -> bool {
        let mut entries = self.trail.iter();
        let entry = entries.find(|entry| entry.is_of_matching());
        let Some(score) = entry.and_then(|entry| entry.shown) else {
            return false;
        };
        let (sum, slack) = similarities.fold((0.0, 0.0), |(sum, slack), similarity| {
            (sum + similarity, slack + rounding)
        });
        (sum - score).abs() <= slack
    }

    pub(crate) fn tell_matches(&mut self, matches: Vec<TokenMatch>) {
        let mut entries = self.trail.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.is_of_matching()) {
            entry.matches = matches;
        }
    }
}

/// What one stage said about a hit.
#[derive(Clone, Debug)]
pub(crate) struct TrailEntry {
    pub(crate) stage: &'static str,
    pub(crate) raw: f64,
    pub(crate) rank: u32,
    pub(crate) normalized: f64,
    pub(crate) weight: f64,
    pub(crate) contribution: f64,
    pub(crate) completed: bool,
    /// What a later stage said about the passage that is shown.
    pub(crate) shown: Option<f32>,
    /// Of the stage that reads passages.
    pub(crate) reading: Option<Reading>,
    /// Of the stage that matches tokens: in the order of the query's. Empty where it cannot be told.
    pub(crate) matches: Vec<TokenMatch>,
}

impl TrailEntry {
    fn is_of_matching(&self) -> bool {
        self.stage == VectorStage::LateInteraction.name()
    }
}

/// What a token of the query matched in the passage that is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenMatch {
    pub(crate) query_token: String,
    pub(crate) passage_token: String,
    /// Their cosine.
    pub(crate) similarity: f32,
}

/// How a passage was read together with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The calibrated score, 0 to 1.
    pub(crate) calibrated: f32,
    /// Tokens of query and passage together.
    pub(crate) tokens: u32,
    /// The batch, counted from 0 within the call.
    pub(crate) batch: u32,
}

/// One plan running on one snapshot. Each stage is a method, in the room of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) plan: &'a Plan,
    pub(crate) placement: &'a Placement,
}

/// Documents by their scores so far.
#[derive(Debug)]
pub(crate) struct Ranked {
    pub(crate) ranking: Ranking,
    /// No document can be an answer but those of the ranking.
    pub(crate) is_exhaustive: bool,
    /// Passages of the head that were fetched to be read; those of the page need not be fetched again.
    pub(crate) texts: HashMap<Address, Passage>,
    /// The query as the dense leg searched by it.
    pub(crate) encoded: Option<Outcome>,
    /// The query as its tokens were matched, where they were.
    pub(crate) matched_with: Option<Arc<Encoded>>,
    pub(crate) reports: Vec<StageReport>,
}

impl Ranked {
    /// Encoders lead the funnel.
    pub(crate) fn report_encoding(&mut self, report: StageReport) {
        let is_encoding = |report: &StageReport| report.stage.starts_with(ENCODE_STAGE);
        let place = self.reports.iter().take_while(|report| is_encoding(report));
        self.reports.insert(place.count(), report);
    }
}

impl<'a> Run<'a> {
    pub(crate) async fn answer(self) -> Result<Answer, SearchError> {
        let head = self.head();
        let encodings = head.iter().filter_map(Head::encoding);
        let mut ranked = beside(encodings, self.rank()).await?;
        for stage in head {
            match stage {
                Head::Vectors(part, stage, query) => {
                    self.score_head(part, stage, query, &mut ranked).await;
                }
                Head::Rerank(part) => self.rerank(part, &mut ranked).await,
            }
        }
        let mut responded = self.respond(&ranked).await?;
        let explained = self.explain(&ranked, &mut responded.hits).await;
        ranked.reports.extend(responded.reports);
        ranked.reports.extend(explained);
        Ok(Answer {
            hits: responded.hits,
            stages: ranked.reports,
            snapshot: self.placement.snapshot.clone(),
            pipeline: self.plan.pipeline.name.clone(),
        })
    }

    /// The stages that every pipeline has.
    pub(crate) async fn rank(self) -> Result<Ranked, SearchError> {
        let retrieved = self.retrieve().await?;
        let is_exhaustive = retrieved.is_exhaustive(&self.plan.request.parsed);
        let encoded = retrieved.encoded;
        let vector = encoded.as_ref().and_then(|encoded| encoded.as_deref().ok());
        let completed = self.complete(retrieved.lists, vector).await?;
        let fused = self.fuse(completed.pool);
        Ok(Ranked {
            ranking: fused.ranking,
            is_exhaustive,
            texts: HashMap::new(),
            encoded,
            matched_with: None,
            reports: [retrieved.reports, completed.reports, fused.reports].concat(),
        })
    }

    /// What a call to this shard says.
    pub(crate) fn target(self, shard: u32) -> Target<'a> {
        Target {
            snapshot: &self.placement.snapshot,
            shard,
            deadline: self.plan.request.deadline,
        }
    }

    /// Starts a stage's report.
    pub(crate) fn begin(self, stage: &'static str) -> StageWatch {
        let started = now();
        let mut report = StageReport::complete(stage);
        report.start_us = micros(started.saturating_duration_since(self.plan.request.arrival));
        StageWatch {
            report,
            started,
            asked: BTreeSet::new(),
            silent: BTreeSet::new(),
        }
    }
}

/// What comes of the work by its deadline.
pub(crate) async fn within<T>(
    deadline: Option<Deadline>,
    work: impl Future<Output = Result<T, SearchError>>,
) -> Result<T, SearchError> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.instant().into(), work)
            .await
            .unwrap_or(Err(SearchError::DeadlineExceeded)),
    }
}

/// The report of a stage that runs.
#[derive(Clone, Debug)]
pub(crate) struct StageWatch {
    pub(crate) report: StageReport,
    started: Instant,
    asked: BTreeSet<u32>,
    silent: BTreeSet<u32>,
}

impl StageWatch {
    /// Notes where a call spent its time: of calls that run side by side the longest counts.
    pub(crate) fn time(&mut self, timing: Timing) {
        self.report.queue_us = self.report.queue_us.max(timing.queue_us);
        self.report.compute_us = self.report.compute_us.max(timing.compute_us);
    }

    /// Notes that a shard was asked.
    pub(crate) fn ask(&mut self, shard: u32) {
        self.asked.insert(shard);
    }

    /// Notes that a shard did not answer.
    pub(crate) fn miss(&mut self, shard: u32) {
        self.asked.insert(shard);
        self.silent.insert(shard);
    }

    /// Whether one of the shards that were asked has answered.
    pub(crate) fn some_answered(&self) -> bool {
        self.silent.len() < self.asked.len()
    }

    /// Notes that nothing came of the stage, for the reason that was noted.
    pub(crate) fn fail(&mut self) {
        self.report.status = StageStatus::Failed;
    }

    /// Notes that the stage did less than it was asked to. The first reason stays.
    pub(crate) fn lessen(&mut self, status: StageStatus, reason: StageReason) {
        self.report.status = status;
        self.report.reason = self.report.reason.or(Some(reason));
    }

    pub(crate) fn end(mut self) -> StageReport {
        self.report.shards_asked = count(&self.asked);
        self.report.shards_answered = count(&self.asked) - count(&self.silent);
        self.report.wall_us = micros(now().saturating_duration_since(self.started));
        self.report
    }
}

fn count(shards: &BTreeSet<u32>) -> u32 {
    u32::try_from(shards.len()).unwrap_or(u32::MAX)
}
