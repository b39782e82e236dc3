//! Stored passages and document ids by address.

use search_core::Address;
use segment::documents::{Documents, StoredPassage};

use crate::error::Error;

/// Most bytes of an answer: what a message holds, less a quarter for its structure.
const MAX_ANSWER_BYTES: usize = service_kit::MAX_MESSAGE_BYTES / 4 * 3;

/// Passages read between two looks at the clock: some milliseconds.
const PASSAGES_PER_CHECK: usize = 128;

/// What is wanted of each passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything that is stored.
    Everything,
    /// The id of the document.
    DocumentId,
}

/// Reads the passages, parallel to their addresses; `None` where there is no such passage. `locate` gives the documents of the
/// segment of an address, if the passage is there; `proceed` is asked now and then.
pub(crate) fn fetch<'a>(
    locate: impl Fn(Address) -> Option<&'a Documents>,
    addresses: &[Address],
    wanted: Wanted,
    proceed: impl Fn() -> Result<(), Error>,
) -> Result<Vec<Option<StoredPassage>>, Error> {
    let mut passages = Vec::with_capacity(addresses.len());
    let mut bytes = 0;
    for (position, address) in addresses.iter().enumerate() {
        if position % PASSAGES_PER_CHECK == 0 {
            proceed()?;
        }
        let passage = match locate(*address) {
            Some(documents) => read(documents, address.ordinal(), wanted)?,
            None => None,
        };
        bytes += passage.as_ref().map_or(0, bytes_of);
        if bytes > MAX_ANSWER_BYTES {
            return Err(Error::AnswerTooLarge {
                limit_bytes: MAX_ANSWER_BYTES,
            });
        }
        passages.push(passage);
    }
    Ok(passages)
}

fn read(
    documents: &Documents,
    ordinal: u32,
    wanted: Wanted,
) -> Result<Option<StoredPassage>, Error> {
    match wanted {
        Wanted::Everything => Ok(documents.passage(ordinal)?),
        Wanted::DocumentId => Ok(documents.document_id_of(ordinal).map(only_id)),
    }
}

fn only_id(document_id: &str) -> StoredPassage {
    StoredPassage {
        document_id: document_id.to_owned(),
        title: String::new(),
        text: String::new(),
        metadata_json: String::new(),
        passage: 0,
    }
}

fn bytes_of(passage: &StoredPassage) -> usize {
    let StoredPassage {
        document_id,
        title,
        text,
        metadata_json,
        ..
    } = passage;
    document_id.len() + title.len() + text.len() + metadata_json.len()
}
