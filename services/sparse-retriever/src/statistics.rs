//! Hands the snapshot's statistics to the inverted index.

use segment::sparse::Statistics;
use tantivy::query::Bm25StatisticsProvider;
use tantivy::schema::Field;
use tantivy::{TantivyError, Term};

/// BM25 numbers of all live passages of all shards, instead of those of the segment at hand.
pub struct SnapshotStatistics<'a>(pub &'a Statistics);

impl Bm25StatisticsProvider for SnapshotStatistics<'_> {
    fn total_num_tokens(&self, _field: Field) -> tantivy::Result<u64> {
        Ok(self.0.tokens())
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.0.passages())
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let found = self.0.doc_freq(term.serialized_value_bytes());
        if found > self.0.passages() {
            // the weight would be computed from a negative number, and panic
            let reason = "statistics: a term is in more passages than there are";
            return Err(TantivyError::InternalError(reason.to_owned()));
        }
        Ok(found)
    }
}
