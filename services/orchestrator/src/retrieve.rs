//! The first stage: every shard of each leg gives its best passages, all at the same time. The sparse leg does not wait for the
//! encoder.
//!
//! Each leg gives on its best `depth` passages over all shards, in the canonical order: score, then document id, then place in
//! the document. A single shard cuts its list in exactly that order, so the pool does not depend on the number of shards; where
//! equal scores straddle the cut, their document ids are looked up.

mod gather;

use crate::clients::{Found, Reach, Target};
use crate::documents::PassageRef;
use crate::encode::{ENCODE_STAGE, Outcome};
use crate::error::{CallError, PlaceError, SearchError, Service};
use crate::extent::Extent;
use crate::funnel::{Run, StageWatch, within};
use crate::placement::Holding;
use crate::plan::Leg;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use search_core::{
    Candidate, Deadline, ParsedQuery, Score, StageReason, StageReport, StageStatus, best_first,
};
use service_kit::now;
use std::sync::{Arc, OnceLock};
use tracing::Instrument;

/// Of the time that a leg has, one part of so many is for putting together what its shards found.
const PUT_TOGETHER_PART: u32 = 8;

/// What the retrievers found.
#[derive(Debug)]
pub(crate) struct Retrieved {
    /// One list for each leg that answered, at least one.
    pub(crate) lists: Vec<LegList>,
    /// The query as vectors, where they were needed.
    pub(crate) encoded: Option<Outcome>,
    pub(crate) reports: Vec<StageReport>,
    /// How much of the pipeline is run.
    pub(crate) extent: Extent,
}

/// How the encoding ended that a leg began with, for whoever gives the leg up.
type EndedEncoding = (StageReport, Outcome);

/// What one leg found, best first.
#[derive(Debug)]
pub(crate) struct LegList {
    pub(crate) leg: Leg,
    pub(crate) passages: Vec<ScoredPassage>,
    /// As long as was asked for: the leg may know more.
    pub(crate) is_full: bool,
}

impl Retrieved {
    /// Notes that a leg is not waited for. If its query is not encoded yet, that is what it waits for.
    fn give_up(&mut self, leg: Leg, encoding: Option<&EndedEncoding>, watch: StageWatch) {
        let report = |stage: &str| {
            let mut watch = watch.clone();
            watch.report.stage = stage.to_owned();
            watch.end()
        };
        if leg == Leg::Dense {
            let encoding = encoding.cloned();
            let (report, outcome) = match encoding {
                Some((report, outcome)) => (report, Some(outcome)),
                None => (report(ENCODE_STAGE), watch.report.reason.map(Err)),
            };
            self.reports.push(report);
            self.encoded = outcome;
        }
        self.reports.push(report(leg.name()));
    }

    /// Whether every passage that can be an answer was found. A list that is not full has all that its leg can find: the dense leg
    /// finds everything that the filter lets through, the sparse leg everything that has a word of the query.
    pub(crate) fn is_exhaustive(&self, query: &ParsedQuery) -> bool {
        let mut whole = self.lists.iter().filter(|list| !list.is_full);
        let is_alone = self.lists.len() == 1;
        whole.any(|list| is_alone || list.leg == Leg::Dense || query.has_required())
    }
}

/// A passage that a shard found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoredPassage {
    pub(crate) passage: PassageRef,
    pub(crate) score: Score,
}

impl ScoredPassage {
    fn new(candidate: Candidate, shard: u32) -> Self {
        Self {
            passage: PassageRef {
                address: candidate.address,
                document: candidate.document,
                shard,
            },
            score: candidate.score,
        }
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            address: self.passage.address,
            document: self.passage.document,
            score: self.score,
        }
    }
}

/// How one leg ended when the request need not fail with it.
struct LegAnswer {
    reports: Vec<StageReport>,
    outcome: Result<LegList, SearchError>,
    encoded: Option<Outcome>,
}

/// The report of what is not waited for.
fn not_waited_for(extent: Extent, mut begun: StageWatch) -> StageWatch {
    let (status, reason) = match extent.is_sparse_alone() {
        Some(reason) => (StageStatus::Skipped, reason),
        None => (StageStatus::Failed, StageReason::Deadline),
    };
    begun.lessen(status, reason);
    begun
}

impl<'a> Run<'a> {
    pub(crate) async fn retrieve(self) -> Result<Retrieved, SearchError> {
        let encoding = OnceLock::new();
        let begun = self.begin(Leg::Dense.name());
        let gathered = self.gather(&encoding).await?;
        let mut retrieved = Retrieved {
            lists: Vec::new(),
            encoded: None,
            reports: Vec::new(),
            extent: gathered.extent,
        };
        let mut failure = None;
        for (leg, answer) in self.plan.legs().iter().zip(gathered.answers) {
            let Some(answer) = answer else {
                retrieved.give_up(
                    *leg,
                    encoding.get(),
                    not_waited_for(gathered.extent, begun.clone()),
                );
                continue;
            };
            retrieved.reports.extend(answer.reports);
            retrieved.encoded = retrieved.encoded.or(answer.encoded);
            match answer.outcome {
                Ok(list) => retrieved.lists.push(list),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // The encoder starts with the first leg, and leads the funnel.
        retrieved
            .reports
            .sort_by_key(|report| report.stage != ENCODE_STAGE);
        match failure {
            Some(error) if retrieved.lists.is_empty() => Err(error),
            _ => Ok(retrieved),
        }
    }

    async fn leg(
        self,
        leg: Leg,
        patience: Option<Deadline>,
        encoding: &OnceLock<EndedEncoding>,
    ) -> Result<LegAnswer, SearchError> {
        let answer = match leg {
            Leg::Sparse => self.sparse_leg(patience).await,
            Leg::Dense => self.dense_leg(patience, encoding).await,
        };
        match answer.outcome {
            Err(error) if !error.may_degrade() || self.is_required(leg) => Err(error),
            Err(error) => {
                tracing::warn!(stage = leg.name(), %error, "answering without this stage");
                Ok(LegAnswer {
                    outcome: Err(error),
                    ..answer
                })
            }
            Ok(_) => Ok(answer),
        }
    }

    fn is_required(self, leg: Leg) -> bool {
        self.is_indispensable(leg) || self.plan.pipeline.requires(leg.name())
    }

    /// Without the sparse leg nobody could say which passages a query with required or excluded words refuses.
    fn is_indispensable(self, leg: Leg) -> bool {
        leg == Leg::Sparse && self.plan.request.parsed.has_conditions()
    }

    async fn sparse_leg(self, patience: Option<Deadline>) -> LegAnswer {
        let holding = &self.placement.documents;
        let query = &self.plan.request.query;
        let search = |shard, target| {
            let holders = holding.of_shard(shard);
            self.mesh.sparse.call(holders, move |client| {
                client.search(target, query, self.reach())
            })
        };
        let (report, outcome) = self
            .search_shards(Leg::Sparse, patience, holding, search)
            .await;
        LegAnswer {
            reports: vec![report],
            outcome,
            encoded: None,
        }
    }

    async fn dense_leg(
        self,
        patience: Option<Deadline>,
        ended: &OnceLock<EndedEncoding>,
    ) -> LegAnswer {
        let holding = match self.placement.dense.holding() {
            Ok(holding) => holding,
            Err(reason) => return self.skipped_dense(reason),
        };
        let encoding = self.encoding_for_retrieval(&holding.fingerprints.encoder);
        let (encode_report, encoded) = self.encode(encoding, self.end_of_stages()).await;
        let encoded = encoded.map(Arc::new);
        let outcome = encoded.as_ref().map(Arc::clone);
        let outcome = outcome.map_err(SearchError::reason);
        // Whoever gives the leg up still tells how the encoder did, and goes on with what it gave.
        let (encode_report, _) = ended.get_or_init(|| (encode_report, outcome)).clone();
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => {
                let dense_report = self.not_run(StageStatus::Skipped, error.reason());
                return LegAnswer {
                    reports: vec![encode_report, dense_report],
                    encoded: Some(Err(error.reason())),
                    outcome: Err(error),
                };
            }
        };
        let query = &*encoded;
        let search = |shard, target| {
            let holders = holding.of_shard(shard);
            self.mesh.dense.call(holders, move |client| {
                client.search(target, query, self.reach())
            })
        };
        let (report, outcome) = self
            .search_shards(Leg::Dense, patience, holding, search)
            .await;
        LegAnswer {
            reports: vec![encode_report, report],
            outcome,
            encoded: Some(Ok(encoded)),
        }
    }

    fn skipped_dense(self, reason: StageReason) -> LegAnswer {
        let error = match reason {
            StageReason::Unavailable => PlaceError::NoReplica(Service::DenseRetriever),
            _ => PlaceError::NoCommonSnapshot(self.placement.snapshot.collection.clone()),
        };
        let report = self.not_run(StageStatus::Failed, reason);
        LegAnswer {
            reports: vec![report],
            outcome: Err(error.into()),
            encoded: None,
        }
    }

    fn not_run(self, status: StageStatus, reason: StageReason) -> StageReport {
        let mut watch = self.begin(Leg::Dense.name());
        watch.lessen(status, reason);
        watch.end()
    }

    fn reach(self) -> Reach<'a> {
        Reach {
            limit: u32::try_from(self.plan.depth).unwrap_or(u32::MAX),
            filter: self.plan.request.filter.as_ref(),
        }
    }

    async fn search_shards<F>(
        self,
        leg: Leg,
        patience: Option<Deadline>,
        holding: &Holding,
        search: impl Fn(u32, Target<'a>) -> F,
    ) -> (StageReport, Result<LegList, SearchError>)
    where
        F: Future<Output = Result<Found, CallError>>,
    {
        let mut watch = self.begin(leg.name());
        let service = match leg {
            Leg::Sparse => Service::SparseRetriever,
            Leg::Dense => Service::DenseRetriever,
        };
        let shards = holding.shards();
        let deadline = self.end_of_stages();
        let span = tracing::info_span!(
            "retrieve",
            stage = leg.name(),
            shards,
            found = tracing::field::Empty
        );
        let target = |shard| Target {
            deadline,
            ..self.target(shard)
        };
        // What is found on a shard whose documents nobody holds could not be shown.
        let calls = (0..shards).map(|shard| {
            let is_shown = !self.placement.documents.of_shard(shard).is_empty();
            let call = is_shown.then(|| search(shard, target(shard)));
            async move {
                match call {
                    Some(call) => call.await,
                    None => Err(CallError::nobody(Service::SparseRetriever)),
                }
            }
        });
        let gather = async {
            let answers = of_shards(service, patience, calls.collect()).await;
            watch.report.candidates_in = holding.passages;
            self.merge(leg, answers, &mut watch).await
        };
        let outcome = gather.instrument(span.clone()).await;
        match &outcome {
            Ok(list) => {
                span.record("found", list.passages.len());
                watch.report.candidates_out = list.passages.len() as u64;
            }
            Err(error) => watch.lessen(StageStatus::Failed, error.reason()),
        }
        (watch.end(), outcome)
    }

    /// One list of all shards that answered. Without any the leg fails; without some it is a part.
    async fn merge(
        self,
        leg: Leg,
        answers: Vec<Result<Found, CallError>>,
        watch: &mut StageWatch,
    ) -> Result<LegList, SearchError> {
        let mut passages = Vec::new();
        let mut failure = None;
        for (shard, answer) in (0..).zip(answers) {
            watch.ask(shard);
            match answer {
                Ok(found) => passages.extend(take(found, shard, watch)),
                Err(error) => {
                    watch.miss(shard);
                    failure = failure.or(Some(SearchError::from(error)));
                }
            }
        }
        if let Some(error) = failure {
            if !watch.some_answered() || !error.may_degrade() {
                return Err(error);
            }
            tracing::warn!(stage = leg.name(), %error, "answering without a shard");
            watch.lessen(StageStatus::Partial, error.reason_of_shard());
        }
        let is_full = passages.len() >= self.plan.depth || !watch.all_answered();
        let passages = self.cut(passages).await?;
        Ok(LegList {
            leg,
            is_full,
            passages,
        })
    }

    /// The best `depth` in the canonical order.
    async fn cut(
        self,
        mut passages: Vec<ScoredPassage>,
    ) -> Result<Vec<ScoredPassage>, SearchError> {
        let depth = self.plan.depth;
        if passages.len() <= depth || depth == 0 {
            return Ok(passages);
        }
        passages.sort_unstable_by(|left, right| best_first(&left.candidate(), &right.candidate()));
        let last_score = passages[depth - 1].score;
        let tied = passages.partition_point(|passage| passage.score > last_score);
        let behind = passages.partition_point(|passage| passage.score >= last_score);
        passages.truncate(behind);
        if behind > depth {
            let ordered = self.by_document_id(passages.split_off(tied)).await?;
            passages.extend(ordered);
            passages.truncate(depth);
        }
        Ok(passages)
    }

    async fn by_document_id(
        self,
        passages: Vec<ScoredPassage>,
    ) -> Result<Vec<ScoredPassage>, SearchError> {
        let refs: Vec<PassageRef> = passages.iter().map(|passage| passage.passage).collect();
        let order = self.order_by_document_id(&refs).await?;
        Ok(order
            .into_iter()
            .map(|position| passages[position])
            .collect())
    }
}

/// What the shards say. Once most of the time of the stage is over, those that are silent are not waited for if others have answered.
async fn of_shards(
    service: Service,
    patience: Option<Deadline>,
    calls: Vec<impl Future<Output = Result<Found, CallError>>>,
) -> Vec<Result<Found, CallError>> {
    let mut answers: Vec<Option<Result<Found, CallError>>> = calls.iter().map(|_| None).collect();
    let mut waiting: FuturesUnordered<_> = calls
        .into_iter()
        .enumerate()
        .map(|(shard, call)| async move { (shard, call.await) })
        .collect();
    let patience = patience.map(patience_with_shards);
    loop {
        let has_some = answers.iter().flatten().any(Result::is_ok);
        let next = async { Ok(waiting.next().await) };
        match within(patience.filter(|_| has_some), next).await {
            Ok(Some((shard, answer))) => answers[shard] = Some(answer),
            Ok(None) | Err(_) => break,
        }
    }
    let late = |answer: Option<_>| answer.unwrap_or_else(|| Err(CallError::late(service)));
    answers.into_iter().map(late).collect()
}

/// Less than the leg itself is waited for: what was found is put together in what is left.
fn patience_with_shards(patience: Deadline) -> Deadline {
    let left = patience.remaining(now()).unwrap_or_default();
    Deadline::new(patience.instant() - left / PUT_TOGETHER_PART)
}

fn take(found: Found, shard: u32, watch: &mut StageWatch) -> impl Iterator<Item = ScoredPassage> {
    watch.time(found.timing);
    if found.refused_segments > 0 {
        watch.lessen(StageStatus::Partial, StageReason::DamagedSegment);
    }
    let candidates = found.candidates.into_iter();
    candidates.map(move |candidate| ScoredPassage::new(candidate, shard))
}
