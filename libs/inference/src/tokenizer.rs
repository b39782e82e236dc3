//! A bundle's tokenizer, with the truncation and padding of its file overridden.
//!
//! Published tokenizers ship with padding to a fixed length and a truncation of their own; both would change the
//! vectors or waste the compute, so only the bundle's `max_tokens` counts here.

use std::ops::Range;
use std::path::Path;

use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{NormalizerWrapper, Tokenizer, TruncationParams};

use crate::bundle::{Bundle, BundleError, DESCRIPTION_FILE, TOKENIZER_FILE};
use crate::encode::{EncodeError, Task};
use crate::token_rules::TokenRules;

/// The token ids of one text, as the model reads them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenIds {
    pub(crate) ids: Vec<u32>,
    /// Which of two sequences each token belongs to: 0 throughout for most models.
    pub(crate) type_ids: Vec<u32>,
    /// The text was longer than the model reads.
    pub(crate) truncated: bool,
    /// Masks at the end of `ids` that no token attends to: nothing but their own vectors depends on them.
    pub(crate) unattended: usize,
    /// Places in `ids` of the tokens that have no vector, ascending.
    pub(crate) left_out: Vec<usize>,
}

impl TokenIds {
    /// The tokens that are attended to.
    pub(crate) fn attended(&self) -> &[u32] {
        &self.ids[..self.ids.len() - self.unattended]
    }

    /// Places in `ids` of the tokens that have vectors.
    pub(crate) fn with_vectors(&self) -> impl Iterator<Item = usize> {
        (0..self.ids.len()).filter(|place| self.left_out.binary_search(place).is_err())
    }
}

/// Cuts texts into tokens.
pub(crate) struct TextTokenizer {
    /// Cuts to `max_tokens`.
    truncating: Tokenizer,
    /// Reads the whole text: passages are cut by its spans.
    whole: Tokenizer,
    query_prompt: String,
    passage_prompt: String,
    rules: TokenRules,
}

impl TextTokenizer {
    pub(crate) fn load(bundle: &Bundle) -> Result<Self, BundleError> {
        let file = bundle.folder().join(TOKENIZER_FILE);
        let description = bundle.description();
        let whole = load_plain(&file, description.lowercase)?;
        let rules = TokenRules::new(&description.token_vectors, &whole)
            .map_err(|wrong| wrong.into_error(&bundle.folder().join(DESCRIPTION_FILE)))?;
        let mut truncating = whole.clone();
        let limit = TruncationParams {
            max_length: description.max_tokens,
            ..TruncationParams::default()
        };
        truncating
            .with_truncation(Some(limit))
            .map_err(|error| BundleError::one(&file, "max_tokens", error))?;
        Ok(Self {
            truncating,
            whole,
            query_prompt: description.prompts.query.clone(),
            passage_prompt: description.prompts.passage.clone(),
            rules,
        })
    }

    /// What the model reads of a text; with the masks that only token vectors need, where those are wanted.
    pub(crate) fn encode(
        &self,
        text: &str,
        task: Task,
        with_token_vectors: bool,
    ) -> Result<TokenIds, String> {
        let prompt = match task {
            Task::Query => &self.query_prompt,
            Task::Passage => &self.passage_prompt,
        };
        let encoding = if prompt.is_empty() {
            self.truncating.encode_fast(text, true)
        } else {
            self.truncating.encode_fast(format!("{prompt}{text}"), true)
        };
        let encoding = encoding.map_err(|error| error.to_string())?;
        if encoding.is_empty() {
            return Err("has no tokens".into());
        }
        let mut row = TokenIds {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            truncated: !encoding.get_overflowing().is_empty(),
            ..TokenIds::default()
        };
        self.rules.apply(&mut row, task, with_token_vectors);
        Ok(row)
    }

    /// The tokens that have vectors, as the vocabulary writes them.
    pub(crate) fn tokens(&self, text: &str, task: Task) -> Result<Vec<String>, String> {
        let row = self.encode(text, task, true)?;
        let token = |place| {
            let id: u32 = row.ids[place];
            let token = self.whole.id_to_token(id);
            token.ok_or_else(|| format!("has a token of the id {id}, which the vocabulary lacks"))
        };
        row.with_vectors().map(token).collect()
    }

    pub(crate) fn spans(&self, text: &str) -> Result<Vec<Range<usize>>, EncodeError> {
        let invalid = |error: tokenizers::Error| EncodeError::InvalidText {
            index: 0,
            reason: error.to_string(),
        };
        let encoding = self.whole.encode(text, false).map_err(invalid)?;
        Ok(encoding
            .get_offsets()
            .iter()
            .map(|&(begin, end)| begin..end)
            .collect())
    }
}

/// The tokenizer of a file without its truncation and padding.
pub(crate) fn load_plain(file: &Path, lowercase: bool) -> Result<Tokenizer, BundleError> {
    let failed = |error: tokenizers::Error| BundleError::one(file, "", error);
    let mut tokenizer = Tokenizer::from_file(file).map_err(failed)?;
    tokenizer.with_truncation(None).map_err(failed)?;
    tokenizer.with_padding(None);
    if lowercase {
        let rest = tokenizer.get_normalizer().cloned();
        let steps = std::iter::once(NormalizerWrapper::from(Lowercase))
            .chain(rest)
            .collect();
        tokenizer.with_normalizer(Some(NormalizerWrapper::from(Sequence::new(steps))));
    }
    Ok(tokenizer)
}

/// The id that the tokenizer's file pads with, or else the id of a token that is called so.
pub(crate) fn pad_token_id(file: &Path) -> Result<Option<u32>, BundleError> {
    let tokenizer =
        Tokenizer::from_file(file).map_err(|error| BundleError::one(file, "", error))?;
    let named = || {
        ["[PAD]", "<pad>", "<|padding|>", "<|endoftext|>"]
            .iter()
            .find_map(|name| tokenizer.token_to_id(name))
    };
    Ok(tokenizer
        .get_padding()
        .map(|padding| padding.pad_id)
        .or_else(named))
}
