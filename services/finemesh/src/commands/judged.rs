//! Queries that someone has judged the answers of.

use std::path::Path;

use anyhow::{Result, ensure};
use evaluation::beir::{self, Judgements, Qrels, Query};

/// Queries and what is relevant to each of them.
pub(super) struct Judged {
    /// In the file's order; never empty.
    pub(super) queries: Vec<Query>,
    qrels: Qrels,
}

impl Judged {
    /// The judged queries of a file, or `limit` of them evenly spread over it.
    ///
    /// # Errors
    /// When a file cannot be read, or no query is judged.
    pub(super) fn read(queries: &Path, qrels: &Path, limit: Option<usize>) -> Result<Self> {
        let judgements = beir::read_qrels(qrels)?;
        let judged = judged_queries(beir::read_queries(queries)?, &judgements, limit);
        ensure!(
            !judged.is_empty(),
            "{}: no query of {} is judged there",
            qrels.display(),
            queries.display()
        );
        Ok(Self {
            queries: judged,
            qrels: judgements,
        })
    }

    /// Each query and its judgements.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Query, &Judgements)> {
        self.queries
            .iter()
            .map(|query| (query, &self.qrels[&query.id]))
    }
}

fn judged_queries(queries: Vec<Query>, qrels: &Qrels, limit: Option<usize>) -> Vec<Query> {
    let judged: Vec<Query> = queries
        .into_iter()
        .filter(|query| qrels.contains_key(&query.id))
        .collect();
    let wanted = limit.unwrap_or(judged.len()).min(judged.len());
    let total = judged.len();
    let mut taken = 0;
    let spread = judged.into_iter().enumerate().filter(|(index, _)| {
        let take = index * wanted / total.max(1) >= taken && taken < wanted;
        taken += usize::from(take);
        take
    });
    spread.map(|(_, query)| query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_takes_judged_queries_evenly_spread() {
        let query = |id: usize| Query {
            id: id.to_string(),
            text: String::new(),
        };
        let qrels: Qrels = (0..100)
            .map(|id| (id.to_string(), Default::default()))
            .collect();
        let taken = |limit| judged_queries((0..200).map(query).collect(), &qrels, limit);
        assert_eq!(taken(None).len(), 100);
        assert_eq!(taken(Some(7)).len(), 7);
        assert_eq!(taken(Some(1000)).len(), 100);
        assert!(taken(Some(2))[1].id.parse::<usize>().unwrap() >= 50);
    }
}
