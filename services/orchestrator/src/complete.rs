//! The pool of all found passages, with a score of every leg for each of them.
//!
//! A passage that one retriever found and the other did not still has a score there: it is asked for. Passages that the query
//! excludes, by a required or an excluded word, are found out by the same call and leave the pool.
//!
//! Where a score cannot be had (a damaged segment, a replica that failed), the lowest score that the leg gave stands for it, and the
//! stage says so.

use crate::clients::{Encoded, Scored, Target};
use crate::documents::PassageRef;
use crate::error::{CallError, SearchError};
use crate::funnel::{BudgetStage, Run, StageWatch, within};
use crate::plan::Leg;
use crate::retrieve::LegList;
use crate::scores::{ShardAnswer, ask_shards};
use futures::future::try_join_all;
use search_core::{Address, Deadline, Score, StageReport};
use tracing::Instrument;

/// Candidates of all legs; arrays are parallel to `passages`.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Ascending by address, each once.
    pub(crate) passages: Vec<PassageRef>,
    pub(crate) legs: Vec<LegScores>,
}

/// The scores of one leg.
#[derive(Debug)]
pub(crate) struct LegScores {
    pub(crate) leg: Leg,
    pub(crate) scores: Vec<f32>,
    /// The leg did not find the passage itself.
    pub(crate) completed: Vec<bool>,
}

/// The pool and the report of the stage, where it ran.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) pool: Pool,
    pub(crate) reports: Vec<StageReport>,
}

impl Pool {
    fn new(lists: Vec<LegList>) -> Self {
        let found = lists
            .iter()
            .flat_map(|list| &list.passages)
            .map(|scored| scored.passage);
        let mut passages: Vec<PassageRef> = found.collect();
        passages.sort_unstable();
        passages.dedup_by_key(|passage| passage.address);
        let legs = lists
            .into_iter()
            .map(|list| LegScores::new(list, &passages))
            .collect();
        Self { passages, legs }
    }

    /// Leaves these passages out.
    fn remove(&mut self, mut positions: Vec<usize>) {
        if positions.is_empty() {
            return;
        }
        positions.sort_unstable();
        keep_others(&mut self.passages, &positions);
        for leg in &mut self.legs {
            keep_others(&mut leg.scores, &positions);
            keep_others(&mut leg.completed, &positions);
        }
    }
}

/// Removes the entries at these ascending positions.
fn keep_others<T>(values: &mut Vec<T>, positions: &[usize]) {
    let mut position = 0;
    values.retain(|_| {
        position += 1;
        positions.binary_search(&(position - 1)).is_err()
    });
}

impl LegScores {
    /// What the leg found, put beside the pool's passages. The rest has the leg's lowest score until it is completed.
    fn new(list: LegList, pool: &[PassageRef]) -> Self {
        let lowest = list
            .passages
            .iter()
            .map(|scored| scored.score)
            .min()
            .unwrap_or(Score::ZERO);
        let mut scores = vec![lowest.get(); pool.len()];
        let mut completed = vec![true; pool.len()];
        for scored in &list.passages {
            let place =
                pool.binary_search_by_key(&scored.passage.address, |passage| passage.address);
            if let Ok(position) = place {
                scores[position] = scored.score.get();
                completed[position] = false;
            }
        }
        Self {
            leg: list.leg,
            scores,
            completed,
        }
    }

    /// Takes over what a shard said; returns the positions that the query excludes.
    fn add(&mut self, answer: &ShardAnswer, watch: &mut StageWatch) -> Vec<usize> {
        for (position, score) in answer.known(watch) {
            self.scores[position] = score;
        }
        let excluded = answer.scored.iter().flat_map(|scored| &scored.excluded);
        excluded.map(|index| answer.positions[*index]).collect()
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.completed.len())
            .filter(|position| self.completed[*position])
            .collect()
    }
}

impl Run<'_> {
    pub(crate) async fn complete(
        self,
        mut lists: Vec<LegList>,
        encoded: Option<&Encoded>,
    ) -> Result<Completed, SearchError> {
        let is_guarded = self.needs_guard();
        if is_guarded {
            // Finds nothing itself, and so is asked about every passage.
            lists.push(LegList {
                leg: Leg::Sparse,
                passages: Vec::new(),
                is_full: false,
            });
        }
        if lists.len() < 2 {
            return Ok(Completed {
                pool: Pool::new(lists),
                reports: Vec::new(),
            });
        }
        let mut watch = self.begin("complete");
        let mut pool = Pool::new(lists);
        watch.report.candidates_in = pool.passages.len() as u64;
        let span = tracing::info_span!("complete", candidates = pool.passages.len());
        let deadline = match self.plan.request.parsed.has_conditions() {
            // Nobody else says which passages they refuse.
            true => self.end_of_stages(),
            // There is a ranking without it: of too little time it uses what there is.
            false => {
                let grant = self.grant(BudgetStage::Complete);
                watch.grant(grant).unwrap_or_else(|_| self.end_of_stages())
            }
        };
        self.fill(&mut pool, encoded, deadline, &mut watch)
            .instrument(span)
            .await?;
        if is_guarded {
            pool.legs.pop();
        }
        watch.report.candidates_out = pool.passages.len() as u64;
        Ok(Completed {
            pool,
            reports: vec![watch.end()],
        })
    }

    /// A pipeline without the sparse leg still obeys required and excluded words.
    fn needs_guard(self) -> bool {
        !self.plan.has(Leg::Sparse) && self.plan.request.parsed.has_conditions()
    }

    async fn fill(
        self,
        pool: &mut Pool,
        encoded: Option<&Encoded>,
        deadline: Option<Deadline>,
        watch: &mut StageWatch,
    ) -> Result<(), SearchError> {
        let asked = pool
            .legs
            .iter()
            .map(|leg| self.ask(leg, &pool.passages, encoded, deadline));
        let answers = try_join_all(asked).await?;
        let mut excluded = Vec::new();
        for (leg, answers) in pool.legs.iter_mut().zip(answers) {
            for answer in answers {
                excluded.extend(leg.add(&answer, watch));
            }
        }
        pool.remove(excluded);
        Ok(())
    }

    /// Asks each shard for the scores that this leg has not given. The error is one that the request must fail with.
    async fn ask(
        self,
        leg: &LegScores,
        passages: &[PassageRef],
        encoded: Option<&Encoded>,
        deadline: Option<Deadline>,
    ) -> Result<Vec<ShardAnswer>, SearchError> {
        let missing = leg
            .missing()
            .into_iter()
            .map(|position| (position, passages[position]));
        let score = |shard, addresses: Vec<Address>| async move {
            let target = Target {
                deadline,
                ..self.target(shard)
            };
            within(deadline, self.score(leg.leg, target, &addresses, encoded)).await
        };
        let answers = ask_shards(missing, usize::MAX, score).await.into_iter();
        answers
            .map(|answer| self.refuse_fatal(leg.leg, answer))
            .collect()
    }

    fn refuse_fatal(self, leg: Leg, answer: ShardAnswer) -> Result<ShardAnswer, SearchError> {
        let must_answer = leg == Leg::Sparse && self.plan.request.parsed.has_conditions();
        match answer.scored {
            Err(error) if must_answer || !error.may_degrade() => Err(error),
            scored => Ok(ShardAnswer { scored, ..answer }),
        }
    }

    async fn score(
        self,
        leg: Leg,
        target: Target<'_>,
        addresses: &[Address],
        encoded: Option<&Encoded>,
    ) -> Result<Scored, SearchError> {
        let shard = target.shard;
        let scored: Result<Scored, CallError> = match (leg, encoded) {
            (Leg::Dense, Some(encoded)) => {
                let holders = self.placement.dense.of_shard(shard);
                self.mesh
                    .dense
                    .call(holders, |client| client.score(target, encoded, addresses))
                    .await
            }
            _ => {
                let holders = self.placement.documents.of_shard(shard);
                let query = &self.plan.request.query;
                self.mesh
                    .sparse
                    .call(holders, |client| client.score(target, query, addresses))
                    .await
            }
        };
        Ok(scored?)
    }
}
