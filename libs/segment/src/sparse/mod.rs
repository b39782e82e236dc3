//! The sparse part of a segment: an inverted index of the passages, and the term statistics of a snapshot.
//!
//! One text field `body` holds title and text of a passage as two values (a phrase never spans both), with term
//! frequencies, positions and field norms; nothing is stored, since the documents part holds the texts. The index
//! is one tantivy segment whose document number is the passage's ordinal.
//!
//! BM25 needs numbers of the whole collection: how many passages hold a term, and how long a passage is on average.
//! They are not read from the index at hand but from the snapshot's [`Statistics`], so that a score does not depend on
//! how the passages are spread over segments and shards.

mod analyzer;
mod builder;
mod index;
mod statistics;

use tantivy::TantivyError;
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};

use crate::SegmentError;

pub use analyzer::{Analyzer, languages};
pub use builder::SparseBuilder;
pub use index::SparseIndex;
pub use statistics::{Statistics, StatisticsBuilder};

/// The one field of the index: title and text.
pub const BODY: Field = Field::from_field_id(0);

/// The name under which the index knows the collection's analyzer.
const ANALYZER_NAME: &str = "passage";

/// The schema of every sparse part.
fn schema() -> Schema {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(ANALYZER_NAME)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions)
        .set_fieldnorms(true);
    let mut schema = Schema::builder();
    schema.add_text_field(
        "body",
        TextOptions::default().set_indexing_options(indexing),
    );
    schema.build()
}

/// For `map_err`: a failure of the inverted index.
fn failed(source: impl Into<TantivyError>) -> SegmentError {
    SegmentError::Engine {
        engine: "tantivy",
        source: Box::new(source.into()),
    }
}

#[cfg(test)]
mod tests;
