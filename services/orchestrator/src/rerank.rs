//! The head of the ranking, read by a cross-encoder: query and passage together.
//!
//! Each document of the head is read by the passage that it would be shown by. Their texts are fetched for the head only, and not again
//! for the answer. They are sent in the order of the ranking, and scores come back batch by batch: when the time is up, what came
//! back is used, and the call is cancelled. The logits of the documents that were read and the earlier scores become one as
//! [`search_core::rerank`] says. (Logits, not calibrated scores: those of confident answers are all 1.)
//!
//! What was not read in time stays below what was, in its earlier order: an answer that was stopped after ten documents is that of a
//! window of ten.
//!
//! The stage adds to an answer that is there already, and never fails it: what it could not do is in its report, and what it did not
//! read keeps its place.

use crate::clients::{MAX_PASSAGE_BYTES, ReadPassage, Reranking};
use crate::costs::{first_within, tokens_of_pair};
use crate::documents::{MAX_ANSWER_BYTES, PassageRef, Wanted, readable};
use crate::error::SearchError;
use crate::funnel::{Ranked, Run, StageWatch, within};
use crate::head::{merge_head, why_it_ended};
use crate::plan::{HeadPart, HeadStage};
use crate::ranking::{LaterScores, Ranking};
use crate::replicas::Open;
use search_core::{Deadline, Grant, StageReason, StageStatus, micros};
use service_kit::now;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// The passage of one document of the head, to be read.
#[derive(Debug)]
struct Candidate {
    /// Of the passage in the pool.
    position: usize,
    text: String,
}

impl Run<'_> {
    /// Has the head read.
    pub(crate) async fn rerank(self, part: HeadPart, grant: Grant, ranked: &mut Ranked) {
        let mut watch = self.begin(part.stage.name());
        let window = ranked.ranking.len().min(part.window as usize);
        watch.report.candidates_in = window as u64;
        let granted = if !self.mesh.cross_encoder.is_configured() {
            Err(StageReason::NotConfigured)
        } else {
            watch.grant(grant)
        };
        match granted {
            Err(reason) => watch.lessen(StageStatus::Skipped, reason),
            Ok(deadline) => {
                self.rerank_window(part, window, deadline, ranked, &mut watch)
                    .await
            }
        }
        ranked.reports.push(watch.end());
    }

    async fn rerank_window(
        self,
        part: HeadPart,
        window: usize,
        deadline: Option<Deadline>,
        ranked: &mut Ranked,
        watch: &mut StageWatch,
    ) {
        if window > 0 {
            let span = tracing::info_span!("rerank", window, scored = tracing::field::Empty);
            let scored = self
                .rerank_head(part, window, deadline, ranked, watch)
                .instrument(span.clone())
                .await;
            span.record("scored", scored);
        }
    }

    /// Returns how many documents were read.
    async fn rerank_head(
        self,
        part: HeadPart,
        window: usize,
        deadline: Option<Deadline>,
        ranked: &mut Ranked,
        watch: &mut StageWatch,
    ) -> usize {
        let candidates = within(deadline, self.candidates(window, ranked, watch)).await;
        let mut candidates = candidates.unwrap_or_else(|error| {
            note(&error, watch);
            Vec::new()
        });
        self.keep_fitting(part, &mut candidates, deadline, watch);
        let texts = candidates.iter().map(|candidate| candidate.text.clone());
        let read = self.read(texts.collect(), deadline, watch).await;
        let said = said(part, &ranked.ranking, &candidates, &read);
        merge_head(window, said, &mut ranked.ranking, watch)
    }

    /// The passages to be read, in the order of the ranking, equal scores by document id.
    async fn candidates(
        self,
        window: usize,
        ranked: &mut Ranked,
        watch: &mut StageWatch,
    ) -> Result<Vec<Candidate>, SearchError> {
        self.settle_ties(&mut ranked.ranking, window).await?;
        let passages: Vec<PassageRef> = (0..window)
            .map(|place| ranked.ranking.passage(place))
            .collect();
        let looked_up = self.fetch(&passages, Wanted::Texts).await.checked(true)?;
        looked_up.note(watch);
        let found = passages.iter().zip(looked_up.passages);
        ranked.texts = found
            .filter_map(|(passage, text)| Some((passage.address, text?)))
            .collect();
        order_equals(&passages, ranked);
        let most_bytes = MAX_PASSAGE_BYTES.min(MAX_ANSWER_BYTES / window);
        let candidate = |place| candidate(place, ranked, most_bytes);
        Ok((0..window).filter_map(candidate).collect())
    }

    /// Leaves the candidates that are expected to be read in time.
    fn keep_fitting(
        self,
        part: HeadPart,
        candidates: &mut Vec<Candidate>,
        deadline: Option<Deadline>,
        watch: &mut StageWatch,
    ) {
        let query = self.plan.request.parsed.plain_text();
        let cost = self.mesh.costs.of(part.stage);
        let tokens = || candidates.iter().map(|it| tokens_of_pair(&query, &it.text));
        let fitting = first_within(tokens(), cost.fitting(deadline), part.floor as usize);
        if fitting > 0 {
            watch.report.expected_us = micros(cost.expected(tokens().take(fitting).sum()));
        }
        if fitting < candidates.len() {
            watch.lessen(StageStatus::Partial, StageReason::Deadline);
            watch.report.candidates_in = fitting as u64;
            candidates.truncate(fitting);
        }
    }

    /// What the model says about these passages, parallel to them, in the time that there is.
    async fn read(
        self,
        passages: Vec<String>,
        deadline: Option<Deadline>,
        watch: &mut StageWatch,
    ) -> Vec<Option<ReadPassage>> {
        if passages.is_empty() {
            return Vec::new();
        }
        let query = self.plan.request.parsed.plain_text();
        let reranker = &self.mesh.cross_encoder;
        let begin = async {
            let everyone = reranker.everyone();
            let call = reranker.open(&everyone, |client| {
                client.rerank(query.clone(), passages.clone(), deadline)
            });
            Ok(call.await?)
        };
        let began = now();
        match within(deadline, begin).await {
            Ok(reranking) => {
                let (read, took) = gather(reranking, began, deadline, watch).await;
                self.learn(&query, &passages, &read, took);
                read
            }
            Err(error) => {
                note(&error, watch);
                Vec::new()
            }
        }
    }

    /// What was read in this time is what it costs; where nothing was, all of it costs more than was waited.
    fn learn(self, query: &str, passages: &[String], read: &[Option<ReadPassage>], took: Duration) {
        let cost = self.mesh.costs.of(HeadStage::Rerank);
        let tokens = |passage: &String| tokens_of_pair(query, passage);
        if read.iter().all(Option::is_none) {
            cost.observe_broken_off(passages.iter().map(tokens).sum(), took);
            return;
        }
        let read = passages.iter().zip(read).filter(|(_, read)| read.is_some());
        cost.observe(read.map(|(passage, _)| tokens(passage)).sum(), took);
    }
}

/// Takes batches until all passages are read or the time is up, and says how long the call took that began then, to its last batch, or
/// how long it was waited for in vain. With the end of this the call ends.
async fn gather(
    mut reranking: Open<'_, Reranking>,
    began: Instant,
    deadline: Option<Deadline>,
    watch: &mut StageWatch,
) -> (Vec<Option<ReadPassage>>, Duration) {
    let since_begin = || now().saturating_duration_since(began);
    let mut took = None;
    loop {
        let next = within(deadline, async { Ok(reranking.next().await?) });
        match next.await {
            Ok(true) => took = Some(since_begin()),
            Ok(false) => break,
            Err(error) => {
                note(&error, watch);
                break;
            }
        }
    }
    watch.time(reranking.timing());
    let read = reranking.read().to_vec();
    if read.iter().any(Option::is_none) {
        watch.lessen(StageStatus::Partial, why_it_ended(deadline));
    }
    (read, took.unwrap_or_else(since_begin))
}

/// Notes what keeps the stage from reading more. That the time is up is no trouble: it is what the stage is made for.
fn note(error: &SearchError, watch: &mut StageWatch) {
    let reason = error.reason();
    if reason == StageReason::Deadline {
        tracing::debug!(%error, "the time for reading is up");
    } else {
        tracing::warn!(%error, "not all of the head is reranked");
    }
    watch.lessen(StageStatus::Partial, reason);
}

/// Puts equal scores of the head, whose passages these are, into the order of their document ids.
fn order_equals(passages: &[PassageRef], ranked: &mut Ranked) {
    let id = |place: usize| {
        let text = ranked.texts.get(&passages[place].address);
        text.map(|passage| &passage.document_id)
    };
    let score = |place: usize| ranked.ranking.score(place);
    let mut order: Vec<usize> = (0..passages.len()).collect();
    order.sort_by(|&left, &right| {
        let by_score = score(right).total_cmp(&score(left));
        by_score.then_with(|| id(left).cmp(&id(right)))
    });
    ranked.ranking.reorder(0, &order);
}

/// What is to be read of the document at this place; none where there is nothing to read.
fn candidate(place: usize, ranked: &Ranked, most_bytes: usize) -> Option<Candidate> {
    let passage = ranked.ranking.passage(place);
    let text = readable(ranked.texts.get(&passage.address)?, most_bytes)?;
    Some(Candidate {
        position: ranked.ranking.position(place),
        text,
    })
}

/// What was read, by the passages.
fn said(
    part: HeadPart,
    ranking: &Ranking,
    candidates: &[Candidate],
    read: &[Option<ReadPassage>],
) -> LaterScores {
    let mut said = LaterScores {
        stage: part.stage.name(),
        weight: part.weight,
        own: vec![None; ranking.passages()],
        readings: HashMap::new(),
    };
    for (candidate, read) in candidates.iter().zip(read) {
        let Some(read) = read else { continue };
        said.own[candidate.position] = Some(read.logit.get());
        said.readings.insert(candidate.position, read.reading);
    }
    said
}
