//! The way of a query through the stages, and what each of them reports.

use crate::clients::{Encoded, Passage, Target, Timing};
use crate::documents::PassageRef;
use crate::encode::{ENCODE_STAGE, Outcome, beside};
use crate::error::SearchError;
use crate::extent::Extent;
use crate::head::Head;
use crate::peers::Known;
use crate::placement::Placement;
use crate::plan::{Leg, Plan, VectorStage};
use crate::ranking::Ranking;
use search_core::fusion::Method;
use search_core::{Address, micros};
use search_core::{Deadline, Grant, SnapshotId, StageReason, StageReport, StageStatus};
use service_kit::now;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) hits: Vec<Hit>,
    pub(crate) stages: Vec<StageReport>,
    pub(crate) snapshot: SnapshotId,
    pub(crate) pipeline: String,
    pub(crate) scale: Scale,
}

/// What the scores of an answer are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    Of(Leg),
    Fused(Method),
}

/// Who wants to know what there is so far.
pub(crate) type Listener = UnboundedSender<Answer>;

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
    pub(crate) mesh: &'a Known,
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
    /// How much of the pipeline was run: less than was planned where the sparse leg turned out to be enough.
    pub(crate) extent: Extent,
    /// Stages that had given something on when a listener was told last.
    told: usize,
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
    /// The answer. Whoever listens is told what there is so far: the fused list, and a better one after each stage that scored something.
    pub(crate) async fn answer(self, listener: Option<&Listener>) -> Result<Answer, SearchError> {
        let head = self.head();
        let needed = head.iter().filter(|_| self.runs_head());
        let encodings = needed.filter_map(Head::encoding);
        let mut ranked = beside(encodings, self.rank()).await?;
        self.check_coverage(&ranked.reports)?;
        for (position, stage) in head.into_iter().enumerate() {
            self.tell(listener, &mut ranked).await?;
            self.run_head(position, stage, &mut ranked).await;
            self.check_required(ranked.reports.last())?;
        }
        let mut responded = self.respond(&ranked).await?;
        let explained = self.explain(&ranked, &mut responded.hits).await;
        ranked.reports.extend(responded.reports);
        ranked.reports.extend(explained);
        Ok(self.write(responded.hits, ranked.reports, ranked.extent))
    }

    /// Whether the head is scored: where it is left as it is nobody would use what its stages need.
    pub(crate) fn runs_head(self) -> bool {
        self.plan.extent.is_without_head().is_none()
    }

    /// Tells the page as it is now, unless it was told already. Its texts need not be fetched again.
    async fn tell(
        self,
        listener: Option<&Listener>,
        ranked: &mut Ranked,
    ) -> Result<(), SearchError> {
        let scored = ranked
            .reports
            .iter()
            .filter(|report| report.candidates_out > 0);
        let (Some(listener), changes) = (listener, scored.count()) else {
            return Ok(());
        };
        if changes == ranked.told {
            return Ok(());
        }
        ranked.told = changes;
        let responded = self.respond(ranked).await?;
        let texts = responded.hits.iter();
        let texts = texts.map(|hit| (hit.shown.address, hit.passage.clone()));
        ranked.texts.extend(texts);
        let reports = [ranked.reports.clone(), responded.reports].concat();
        // Whoever has gone need not be told.
        let _ = listener.send(self.write(responded.hits, reports, ranked.extent));
        Ok(())
    }

    fn write(self, hits: Vec<Hit>, stages: Vec<StageReport>, extent: Extent) -> Answer {
        let single = || self.plan.legs().first().copied().unwrap_or(Leg::Sparse);
        Answer {
            hits,
            stages,
            snapshot: self.placement.snapshot.clone(),
            pipeline: self.plan.pipeline.name.clone(),
            scale: match self.plan.fusion {
                _ if extent.is_sparse_alone().is_some() => Scale::Of(Leg::Sparse),
                Some(fusion) => Scale::Fused(fusion.method),
                None => Scale::Of(single()),
            },
        }
    }

    /// A retriever that lacks a shard is an error where the request wants all of them.
    fn check_coverage(self, reports: &[StageReport]) -> Result<(), SearchError> {
        let is_of_leg = |report: &&StageReport| {
            self.plan
                .legs()
                .iter()
                .any(|leg| leg.name() == report.stage)
        };
        let mut lacking = reports
            .iter()
            .filter(is_of_leg)
            .filter(|report| report.is_degraded());
        match lacking.next() {
            Some(report) if self.plan.request.require_full_coverage => Err(SearchError::Coverage {
                stage: report.stage.clone(),
                asked: report.shards_asked,
                answered: report.shards_answered,
                reason: report.reason.unwrap_or(StageReason::Fault),
            }),
            _ => Ok(()),
        }
    }

    /// A stage that did nothing is an error where the pipeline requires it.
    fn check_required(self, report: Option<&StageReport>) -> Result<(), SearchError> {
        let is_lost = |report: &&StageReport| {
            let did_nothing = matches!(report.status, StageStatus::Failed | StageStatus::Skipped);
            did_nothing && report.is_degraded() && self.plan.pipeline.requires(&report.stage)
        };
        match report.filter(is_lost) {
            Some(report) => Err(SearchError::RequiredStage {
                stage: report.stage.clone(),
                reason: report.reason.unwrap_or(StageReason::Fault),
            }),
            None => Ok(()),
        }
    }

    /// The stages that every pipeline has.
    pub(crate) async fn rank(self) -> Result<Ranked, SearchError> {
        let retrieved = self.retrieve().await?;
        let is_exhaustive = retrieved.is_exhaustive(&self.plan.request.parsed);
        let encoded = retrieved.encoded;
        let vector = encoded.as_ref().and_then(|encoded| encoded.as_deref().ok());
        let completed = self.complete(retrieved.lists, vector).await?;
        let fused = self.fuse(completed.pool, retrieved.extent.is_sparse_alone().is_some());
        Ok(Ranked {
            ranking: fused.ranking,
            is_exhaustive,
            texts: HashMap::new(),
            encoded,
            matched_with: None,
            reports: [retrieved.reports, completed.reports, fused.reports].concat(),
            extent: retrieved.extent,
            told: 0,
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

    /// The time of a stage of the budget that begins now.
    pub(crate) fn grant(self, stage: BudgetStage) -> Grant {
        let budget = &self.plan.pipeline.budget;
        budget.grant(stage.position(), now(), self.plan.request.deadline)
    }

    /// When the last stage has to have ended: what is left then is for the steps behind it.
    pub(crate) fn end_of_stages(self) -> Option<Deadline> {
        self.plan.end_of_stages(now())
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

/// A stage that has a share of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetStage {
    Retrieve,
    Complete,
    /// Of the head, counted from 0.
    Head(usize),
}

impl BudgetStage {
    const fn position(self) -> usize {
        match self {
            Self::Retrieve => 0,
            Self::Complete => 1,
            Self::Head(position) => position + 2,
        }
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

    /// Notes the time that the stage is given, and that it is left out where that is too little. Returns until when it may run.
    pub(crate) fn grant(&mut self, grant: Grant) -> Result<Option<Deadline>, StageReason> {
        if grant == Grant::TooLittle {
            return Err(StageReason::Deadline);
        }
        let deadline = grant.deadline();
        let granted = deadline.and_then(|deadline| deadline.remaining(self.started));
        self.report.granted_us = micros(granted.unwrap_or_default());
        Ok(deadline)
    }

    /// How long the stage has run.
    pub(crate) fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.started)
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

    /// Whether every shard that was asked has answered.
    pub(crate) fn all_answered(&self) -> bool {
        self.silent.is_empty()
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
        self.report.wall_us = micros(self.elapsed());
        self.report
    }
}

fn count(shards: &BTreeSet<u32>) -> u32 {
    u32::try_from(shards.len()).unwrap_or(u32::MAX)
}
