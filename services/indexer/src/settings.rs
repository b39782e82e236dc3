//! What a run is asked for, and what it means for a collection: a new one takes the wishes and the defaults, an existing
//! one keeps what it was built with and refuses other wishes.

mod stages;

use std::fmt::Display;

use inference::EncoderInfo;
use search_core::{CollectionName, FieldError};
use segment::manifest::{CollectionSettings, MAX_SHARDS, Manifest, Stage};
use segment::sparse::languages;

pub(crate) use self::stages::StagePlan;
pub use self::stages::StageSettings;
use self::stages::{StageMaker, each_once, is_encoded, stage_mistakes};
use crate::config::{Config, PASSAGE_TOKENS};
use crate::encode::EncoderInfos;
use crate::error::IndexError;
use crate::passages::PassageSize;

const DEFAULT_LANGUAGE: &str = "english";
/// Where stages are in a run's request.
const STAGES: &str = "settings.stages";
const DEFAULT_STAGES: [Stage; 2] = [Stage::Sparse, Stage::Dense];

/// What a run is asked for. What is not set is the collection's, or the default for a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSettings {
    /// The collection; created if it does not exist.
    pub collection: CollectionName,
    /// Shards.
    pub shards: Option<u32>,
    /// Stages to build, sparse among them; empty: not set.
    pub stages: Vec<Stage>,
    /// Tokens of a passage.
    pub passage_tokens: Option<u32>,
    /// Tokens that neighbouring passages share.
    pub overlap_tokens: Option<u32>,
    /// Analysis of the text.
    pub language: Option<String>,
    /// Leave out invalid lines instead of refusing the run.
    pub skip_invalid: bool,
}

impl IndexSettings {
    /// Nothing but the defaults.
    #[must_use]
    pub fn new(collection: CollectionName) -> Self {
        Self {
            collection,
            shards: None,
            stages: Vec::new(),
            passage_tokens: None,
            overlap_tokens: None,
            language: None,
            skip_invalid: false,
        }
    }

    /// Wishes that no collection could have; all of them.
    pub(crate) fn mistakes(&self) -> Vec<FieldError> {
        let mut mistakes = Vec::new();
        let mut check = |is_right: bool, path: &str, message: String| {
            if !is_right {
                mistakes.push(FieldError::new(path, message));
            }
        };
        let shards_fit = self
            .shards
            .is_none_or(|shards| (1..=MAX_SHARDS).contains(&shards));
        check(
            shards_fit,
            "settings.shards",
            format!("must be 1 to {MAX_SHARDS}"),
        );
        if !self.stages.is_empty() {
            let broken = stage_mistakes(&self.stages);
            broken.for_each(|message| check(false, STAGES, message.to_owned()));
        }
        let tokens_fit = self
            .passage_tokens
            .is_none_or(|tokens| PASSAGE_TOKENS.contains(&tokens));
        check(
            tokens_fit,
            "settings.passage_tokens",
            "must be 16 to 8192".to_owned(),
        );
        let overlap_fits = match (self.passage_tokens, self.overlap_tokens) {
            (Some(tokens), Some(overlap)) => overlap < tokens.div_ceil(2),
            (None, Some(overlap)) => overlap < PASSAGE_TOKENS.end() / 2,
            (_, None) => true,
        };
        check(
            overlap_fits,
            "settings.overlap_tokens",
            "must be less than half of passage_tokens".to_owned(),
        );
        if let Some(language) = &self.language {
            let known: Vec<&str> = languages().collect();
            let is_known = known.contains(&language.as_str());
            check(
                is_known,
                "settings.language",
                format!("{language:?} is unknown; known are {}", known.join(", ")),
            );
        }
        mistakes
    }

    /// The settings of the collection: those of its manifest, or new ones.
    pub(crate) fn resolve(
        &self,
        latest: Option<&Manifest>,
        config: &Config,
        encoders: EncoderInfos<'_>,
    ) -> Result<CollectionSettings, IndexError> {
        match latest {
            None => self.new_collection(config, encoders),
            Some(manifest) => {
                self.check_against(&manifest.settings)?;
                check_encoders(manifest, encoders)?;
                Ok(manifest.settings.clone())
            }
        }
    }

    fn new_collection(
        &self,
        config: &Config,
        encoders: EncoderInfos<'_>,
    ) -> Result<CollectionSettings, IndexError> {
        let stages = self
            .wished_stages()
            .unwrap_or_else(|| DEFAULT_STAGES.to_vec());
        let size = self.passage_size(config, encoders.first, is_encoded(&stages))?;
        let bare = CollectionSettings {
            shards: self.shards.unwrap_or(1),
            stages: Vec::new(),
            passage_tokens: size.passage_tokens,
            overlap_tokens: size.overlap_tokens,
            language: self
                .language
                .clone()
                .unwrap_or_else(|| DEFAULT_LANGUAGE.to_owned()),
            encoder: None,
            dense: None,
            rescore: None,
            colbert: None,
        };
        let maker = StageMaker {
            config,
            encoders,
            field: STAGES,
        };
        maker.add(bare, &stages)
    }

    /// In their order, each once.
    fn wished_stages(&self) -> Option<Vec<Stage>> {
        (!self.stages.is_empty()).then(|| each_once(&self.stages))
    }

    fn passage_size(
        &self,
        config: &Config,
        encoder: &EncoderInfo,
        is_encoded: bool,
    ) -> Result<PassageSize, IndexError> {
        let encoder_limit = if is_encoded {
            as_u32(encoder.max_tokens)
        } else {
            u32::MAX
        };
        let passage_tokens = self
            .passage_tokens
            .unwrap_or(config.passage_tokens.min(encoder_limit));
        if passage_tokens > encoder_limit {
            let message = format!(
                "{passage_tokens} are more than the {encoder_limit} that the encoder reads"
            );
            return Err(IndexError::invalid("settings.passage_tokens", message));
        }
        // The default is made for long passages; an explicit wish is never bent.
        let default_overlap = config.overlap_tokens.min(passage_tokens / 4);
        let overlap_tokens = self.overlap_tokens.unwrap_or(default_overlap);
        if overlap_tokens >= passage_tokens.div_ceil(2) {
            let message = format!(
                "{overlap_tokens} is not less than half of passage_tokens, {passage_tokens}"
            );
            return Err(IndexError::invalid("settings.overlap_tokens", message));
        }
        Ok(PassageSize {
            passage_tokens,
            overlap_tokens,
        })
    }

    fn check_against(&self, stored: &CollectionSettings) -> Result<(), IndexError> {
        let stages = |stages: &[Stage]| {
            stages
                .iter()
                .map(|stage| stage.as_str())
                .collect::<Vec<_>>()
                .join(",")
        };
        let stored_stages = {
            let mut sorted = stored.stages.clone();
            sorted.sort_unstable();
            stages(&sorted)
        };
        self.same("shards", &stored.shards, self.shards.as_ref())?;
        self.same(
            "stages",
            &stored_stages,
            self.wished_stages().map(|wished| stages(&wished)).as_ref(),
        )?;
        self.same(
            "passage_tokens",
            &stored.passage_tokens,
            self.passage_tokens.as_ref(),
        )?;
        self.same(
            "overlap_tokens",
            &stored.overlap_tokens,
            self.overlap_tokens.as_ref(),
        )?;
        self.same("language", &stored.language, self.language.as_ref())
    }

    fn same<T: PartialEq + Display>(
        &self,
        field: &'static str,
        stored: &T,
        requested: Option<&T>,
    ) -> Result<(), IndexError> {
        match requested {
            Some(requested) if requested != stored => Err(IndexError::SettingDiffers {
                field,
                collection: self.collection.to_string(),
                stored: stored.to_string(),
                requested: requested.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Vectors of two encoders do not mix.
fn check_encoders(manifest: &Manifest, encoders: EncoderInfos<'_>) -> Result<(), IndexError> {
    let roles = [
        (
            "encoder",
            manifest.encoder_fingerprint(),
            Some(encoders.first),
        ),
        (
            "rescorer",
            manifest.rescore_fingerprint(),
            encoders.rescorer,
        ),
        (
            "encoder",
            manifest.colbert_fingerprint(),
            Some(encoders.first),
        ),
    ];
    for (role, stored, current) in roles {
        let is_same = current.is_some_and(|current| current.fingerprint == stored);
        if !stored.is_empty() && !is_same {
            return Err(encoder_differs(manifest, role, stored, current));
        }
    }
    Ok(())
}

fn encoder_differs(
    manifest: &Manifest,
    role: &'static str,
    stored: &str,
    current: Option<&EncoderInfo>,
) -> IndexError {
    let current = current.map_or("none", |current| &current.fingerprint);
    IndexError::EncoderDiffers {
        role,
        collection: manifest.collection.to_string(),
        stored: stored.to_owned(),
        current: current.to_owned(),
    }
}

fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
