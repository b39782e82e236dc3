//! Which tokens of a text have vectors: a bundle's rules in the ids of its vocabulary.
//!
//! A late-interaction model may have no use for the vectors of punctuation in passages, and may have been trained to search with
//! the vectors of mask tokens behind a short query (ColBERT, Khattab and Zaharia, 2020).

use std::collections::HashSet;
use std::path::Path;

use tokenizers::Tokenizer;

use crate::bundle::{BundleError, QueryMasks, TokenVectorRules};
use crate::encode::Task;
use crate::tokenizer::TokenIds;

/// Rules in ids.
#[derive(Debug)]
pub(crate) struct TokenRules {
    left_out_of_passages: HashSet<u32>,
    masks: Option<Masks>,
}

#[derive(Debug)]
struct Masks {
    id: u32,
    /// Tokens that a query has with them.
    tokens: usize,
    attended: bool,
}

/// A token that the vocabulary does not have.
#[derive(Debug)]
pub(crate) struct UnknownToken {
    field: String,
    token: String,
}

impl UnknownToken {
    /// The mistake of a description.
    pub(crate) fn into_error(self, file: &Path) -> BundleError {
        let message = format!("{:?} is not in the vocabulary", self.token);
        BundleError::one(file, &self.field, message)
    }
}

impl TokenRules {
    pub(crate) fn new(
        rules: &TokenVectorRules,
        vocabulary: &Tokenizer,
    ) -> Result<Self, UnknownToken> {
        let id = |field: String, token: &String| {
            let token_id = vocabulary.token_to_id(token);
            token_id.ok_or_else(|| UnknownToken {
                field: format!("token_vectors.{field}"),
                token: token.clone(),
            })
        };
        let left_out = rules.left_out_of_passages.iter().enumerate();
        let left_out = left_out.map(|(at, token)| id(format!("left_out_of_passages[{at}]"), token));
        let masks = |masks: &QueryMasks| {
            Ok(Masks {
                id: id("query_masks.token".to_owned(), &masks.token)?,
                tokens: masks.tokens,
                attended: masks.attended,
            })
        };
        Ok(Self {
            left_out_of_passages: left_out.collect::<Result<_, _>>()?,
            masks: rules.query_masks.as_ref().map(masks).transpose()?,
        })
    }

    /// Masks that are attended to are part of every query; others are nothing but their own vectors.
    pub(crate) fn apply(&self, row: &mut TokenIds, task: Task, with_token_vectors: bool) {
        match (task, &self.masks) {
            (Task::Query, Some(masks)) if masks.attended || with_token_vectors => {
                add_masks(row, masks);
            }
            (Task::Passage, _) if with_token_vectors => self.leave_out(row),
            _ => {}
        }
    }

    fn leave_out(&self, row: &mut TokenIds) {
        let ids = row.ids.iter().enumerate();
        let left_out = ids.filter(|(_, id)| self.left_out_of_passages.contains(id));
        row.left_out = left_out.map(|(place, _)| place).collect();
    }
}

fn add_masks(row: &mut TokenIds, masks: &Masks) {
    let missing = masks.tokens.saturating_sub(row.ids.len());
    let tokens = row.ids.len() + missing;
    row.ids.resize(tokens, masks.id);
    row.type_ids.resize(tokens, 0);
    if !masks.attended {
        row.unattended = missing;
    }
}
