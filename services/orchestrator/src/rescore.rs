//! The head of the ranking, scored by the vectors of a second encoder.
//!
//! The second encoder reads the query while the retrievers search, so that the stage costs little more than one call to each shard that
//! holds passages of the head. All passages of a document that were found are scored; the best of them counts. How these scores and
//! the earlier ones become one is said in [`search_core::rerank`].
//!
//! The stage adds to an answer that is there already, and never fails it: what it could not do is in its report, and what it did not
//! score keeps its place. Of the time that is left when it begins it takes half: the hits have to be fetched, too.

use crate::clients::{Encoded, Scored, Target};
use crate::complete::ShardAnswer;
use crate::documents::by_shard;
use crate::error::SearchError;
use crate::funnel::{Ranked, Run, StageWatch, within};
use crate::placement::{DensePlace, Holding};
use crate::plan::HeadPart;
use crate::ranking::{LaterScores, Ranking};
use futures::future::{Either, join_all, ready, select};
use search_core::{Address, Deadline, StageReason, StageReport, StageStatus};
use std::collections::HashMap;
use std::pin::pin;
use tracing::Instrument;

/// The stage that scores, in reports and trails.
const STAGE: &str = "rescore";
/// The stage that makes its query vector.
const ENCODE_STAGE: &str = "encode_rescore";

/// The query in the space of the second encoder, and the report of its encoding; none where there was nothing to encode it for.
#[derive(Debug)]
struct RescoreQuery {
    report: Option<StageReport>,
    encoded: Result<Encoded, StageReason>,
}

impl RescoreQuery {
    /// The encoding has begun, but nobody waits for it any longer.
    fn abandoned(mut watch: StageWatch) -> Self {
        watch.lessen(StageStatus::Failed, StageReason::Deadline);
        Self {
            report: Some(watch.end()),
            encoded: Err(StageReason::Deadline),
        }
    }
}

/// What of the ranking is scored, and how.
#[derive(Clone, Copy, Debug)]
struct Head<'a> {
    query: &'a Encoded,
    /// Documents.
    window: usize,
    weight: f64,
    deadline: Option<Deadline>,
}

impl Run<'_> {
    /// [`Run::rank`], and then the head scored again.
    pub(crate) async fn rank_and_rescore(self, rescore: HeadPart) -> Result<Ranked, SearchError> {
        let encode_watch = self.begin(ENCODE_STAGE);
        let encoding = pin!(self.encode_for_rescoring());
        let ranking = pin!(self.rank());
        let (mut ranked, encoding) = match select(ranking, encoding).await {
            Either::Left((ranked, encoding)) => (ranked?, Either::Left(encoding)),
            Either::Right((query, ranking)) => (ranking.await?, Either::Right(ready(query))),
        };
        let mut watch = self.begin(STAGE);
        let deadline = self.part_of_time_left(|left| left / 2);
        let query = within(deadline, async { Ok(encoding.await) }).await;
        let query = query.unwrap_or_else(|_| RescoreQuery::abandoned(encode_watch));
        match &query.encoded {
            Err(reason) => watch.lessen(StageStatus::Skipped, *reason),
            Ok(encoded) => {
                let head = Head {
                    query: encoded,
                    window: ranked.ranking.len().min(rescore.window as usize),
                    weight: rescore.weight,
                    deadline,
                };
                self.rescore_head(head, &mut ranked.ranking, &mut watch)
                    .await;
            }
        }
        ranked.reports.extend(query.report);
        // Encoders lead the funnel.
        ranked
            .reports
            .sort_by_key(|report| !report.stage.starts_with("encode"));
        ranked.reports.push(watch.end());
        Ok(ranked)
    }

    async fn encode_for_rescoring(self) -> RescoreQuery {
        let holding = match self.rescore_holding() {
            Ok(holding) => holding,
            Err(reason) => {
                return RescoreQuery {
                    report: None,
                    encoded: Err(reason),
                };
            }
        };
        let (report, encoded) = self
            .encode(ENCODE_STAGE, &holding.rescore_fingerprint)
            .await;
        let warn = |error: &SearchError| tracing::warn!(%error, "answering without rescoring");
        RescoreQuery {
            report: Some(report),
            encoded: encoded.inspect_err(warn).map_err(|error| error.reason()),
        }
    }

    /// Who holds the vectors for rescoring, or why nobody does.
    fn rescore_holding(&self) -> Result<&Holding, StageReason> {
        match &self.placement.dense {
            DensePlace::Held(holding) if holding.rescore_fingerprint.is_empty() => {
                Err(StageReason::NotIndexed)
            }
            DensePlace::Held(holding) => Ok(holding),
            DensePlace::Missing(reason) => Err(*reason),
            DensePlace::NotNeeded => Err(StageReason::NotIndexed),
        }
    }

    async fn rescore_head(self, head: Head<'_>, ranking: &mut Ranking, watch: &mut StageWatch) {
        let window = head.window;
        watch.report.candidates_in = window as u64;
        let span = tracing::info_span!("rescore", window, scored = tracing::field::Empty);
        let score = async {
            within(head.deadline, self.settle_ties(ranking, window)).await?;
            Ok::<_, SearchError>(self.score_head(head, ranking, watch).await)
        };
        let scored = score.instrument(span.clone()).await;
        match scored {
            Ok(own) => {
                let said = LaterScores {
                    stage: STAGE,
                    weight: head.weight,
                    own,
                    readings: HashMap::new(),
                };
                let scored = ranking.rerank(window, said);
                span.record("scored", scored);
                watch.report.candidates_out = scored as u64;
            }
            Err(error) => watch.lessen(StageStatus::Failed, error.reason()),
        }
        if watch.all_are_silent() {
            watch.fail();
        }
    }

    /// The scores of all passages of the head, parallel to the pool.
    async fn score_head(
        self,
        head: Head<'_>,
        ranking: &Ranking,
        watch: &mut StageWatch,
    ) -> Vec<Option<f32>> {
        let calls = by_shard(ranking.passages_of_head(head.window))
            .into_iter()
            .map(|(shard, places)| async move {
                let (positions, addresses): (Vec<usize>, Vec<Address>) = places.into_iter().unzip();
                let scored = self.score_shard(head, shard, &addresses);
                ShardAnswer {
                    shard,
                    positions,
                    scored: within(head.deadline, scored).await,
                }
            });
        let mut own = vec![None; ranking.passages()];
        for answer in join_all(calls).await {
            for (position, score) in answer.known(watch) {
                own[position] = Some(score);
            }
        }
        own
    }

    async fn score_shard(
        self,
        head: Head<'_>,
        shard: u32,
        addresses: &[Address],
    ) -> Result<Scored, SearchError> {
        let target = Target {
            deadline: head.deadline,
            ..self.target(shard)
        };
        let holders = match &self.placement.dense {
            DensePlace::Held(holding) => holding.of_shard(shard),
            _ => &[],
        };
        let call = self.mesh.dense.call(holders, |client| {
            client.score(target, head.query, addresses)
        });
        Ok(call.await?)
    }
}
