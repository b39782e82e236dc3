//! Which stages a collection has, and how those that it gets are stored.

use inference::EncoderInfo;
use search_core::{CollectionName, FieldError};
use segment::manifest::{
    ColbertSettings, CollectionSettings, DenseSettings, EncoderSettings, Manifest, Stage,
};

use super::{as_u32, encoder_differs};
use crate::config::Config;
use crate::encode::EncoderInfos;
use crate::error::IndexError;

/// Dimensions of the stored token vectors of a model that was not trained to have so few.
const TOKEN_DIMENSIONS: u32 = 96;
/// Of a request for other stages.
const FIELD: &str = "stages";

/// The stages that an existing collection is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSettings {
    /// The collection.
    pub collection: CollectionName,
    /// All of them, sparse among them.
    pub stages: Vec<Stage>,
}

/// What a collection's settings become.
pub(crate) struct StagePlan {
    /// All of them.
    pub(crate) settings: CollectionSettings,
    /// With nothing but the stages that have to be built.
    pub(crate) added: CollectionSettings,
}

impl StageSettings {
    /// What no collection could have; all of it.
    pub(crate) fn mistakes(&self) -> Vec<FieldError> {
        stage_mistakes(&self.stages)
            .map(|message| FieldError::new(FIELD, message))
            .collect()
    }

    /// The stages that the collection has stay as they are, whatever this indexer would make of them.
    pub(crate) fn plan(
        &self,
        manifest: &Manifest,
        config: &Config,
        encoders: EncoderInfos<'_>,
    ) -> Result<StagePlan, IndexError> {
        let stored = &manifest.settings;
        let mut new = each_once(&self.stages);
        new.retain(|stage| !stored.stages.contains(stage));
        let kept = stored.with_only(&self.stages);
        if is_encoded(&new) {
            check_bundle(manifest, &kept, encoders.first)?;
            check_passages(&kept, encoders.first)?;
        }
        let maker = StageMaker {
            config,
            encoders,
            field: FIELD,
        };
        let settings = maker.add(kept, &new)?;
        Ok(StagePlan {
            added: settings.with_only(&new),
            settings,
        })
    }
}

impl StagePlan {
    pub(crate) fn adds(&self, stage: Stage) -> bool {
        self.added.stages.contains(&stage)
    }

    pub(crate) fn changes(&self, manifest: &Manifest) -> bool {
        !self.added.stages.is_empty() || !self.left_out_of(manifest).is_empty()
    }

    /// The stages that go.
    pub(crate) fn left_out_of(&self, manifest: &Manifest) -> Vec<Stage> {
        let mut stages = manifest.settings.stages.clone();
        stages.retain(|stage| !self.settings.stages.contains(stage));
        stages
    }
}

/// Sentence and token vectors are of one bundle.
fn check_bundle(
    manifest: &Manifest,
    kept: &CollectionSettings,
    first: &EncoderInfo,
) -> Result<(), IndexError> {
    let sentences = kept.encoder.as_ref().map(|encoder| &encoder.fingerprint);
    let tokens = kept.colbert.as_ref().map(|colbert| &colbert.fingerprint);
    match sentences.or(tokens) {
        Some(stored) if *stored != first.fingerprint => {
            Err(encoder_differs(manifest, "encoder", stored, Some(first)))
        }
        _ => Ok(()),
    }
}

/// They were cut when they were indexed, perhaps for no encoder.
fn check_passages(kept: &CollectionSettings, first: &EncoderInfo) -> Result<(), IndexError> {
    let (tokens, limit) = (kept.passage_tokens, as_u32(first.max_tokens));
    if tokens <= limit {
        return Ok(());
    }
    let message = format!(
        "the collection's passages of {tokens} tokens are longer than the {limit} that bundle {} reads",
        first.name
    );
    Err(IndexError::invalid(FIELD, message))
}

/// Why no collection could have just these stages.
pub(super) fn stage_mistakes(stages: &[Stage]) -> impl Iterator<Item = &'static str> {
    let has = |stage| stages.contains(&stage);
    let rules = [
        (
            has(Stage::Sparse),
            "must include sparse, which serves the documents",
        ),
        (
            has(Stage::Dense) || !has(Stage::Rescore),
            "must include dense where rescore is",
        ),
    ];
    let broken = rules.into_iter().filter(|(holds, _)| !holds);
    broken.map(|(_, message)| message)
}

/// In their order.
pub(super) fn each_once(stages: &[Stage]) -> Vec<Stage> {
    let mut stages = stages.to_vec();
    stages.sort_unstable();
    stages.dedup();
    stages
}

/// Whether the first encoder makes something for them.
pub(super) fn is_encoded(stages: &[Stage]) -> bool {
    stages.contains(&Stage::Dense) || stages.contains(&Stage::Colbert)
}

/// How this indexer stores stages.
pub(super) struct StageMaker<'a> {
    pub(super) config: &'a Config,
    pub(super) encoders: EncoderInfos<'a>,
    /// Where in the request the stages are.
    pub(super) field: &'static str,
}

impl StageMaker<'_> {
    /// Adds stages, which come in their order.
    pub(super) fn add(
        &self,
        mut settings: CollectionSettings,
        stages: &[Stage],
    ) -> Result<CollectionSettings, IndexError> {
        let first = self.encoders.first;
        for stage in stages {
            match stage {
                Stage::Sparse => {}
                Stage::Dense => {
                    settings.encoder = Some(encoder_settings(first));
                    settings.dense = Some(dense_settings(self.config, first));
                }
                Stage::Rescore => settings.rescore = Some(self.rescore(&settings)?),
                Stage::Colbert => settings.colbert = Some(self.colbert()?),
            }
            settings.stages.push(*stage);
        }
        settings.stages.sort_unstable();
        Ok(settings)
    }

    fn rescore(&self, settings: &CollectionSettings) -> Result<EncoderSettings, IndexError> {
        let refuse = |message: String| Err(IndexError::invalid(self.field, message));
        let own = settings.encoder.as_ref();
        let is_own = |rescorer: &EncoderInfo| {
            own.is_some_and(|encoder| encoder.fingerprint == rescorer.fingerprint)
        };
        match self.encoders.rescorer {
            None => refuse("rescore needs a second bundle, and this indexer has none".to_owned()),
            Some(rescorer) if is_own(rescorer) => refuse(format!(
                "rescore needs a second bundle, and this indexer's is the encoder's own, {}",
                rescorer.fingerprint
            )),
            Some(rescorer) => Ok(encoder_settings(rescorer)),
        }
    }

    /// Token vectors as wide as the sentence vector are the model's states: cut. Others come from a trained head: kept as they
    /// are.
    fn colbert(&self) -> Result<ColbertSettings, IndexError> {
        let encoder = self.encoders.first;
        if encoder.token_dimensions == 0 {
            let message = format!(
                "colbert needs token vectors, and bundle {} gives none",
                encoder.name
            );
            return Err(IndexError::invalid(self.field, message));
        }
        let width = as_u32(encoder.token_dimensions);
        let are_states = encoder.token_dimensions == encoder.dimensions;
        let dimensions = match are_states {
            true => width.min(TOKEN_DIMENSIONS),
            false => width,
        };
        Ok(ColbertSettings {
            fingerprint: encoder.fingerprint.clone(),
            token_dimensions: width,
            dimensions,
            rotated: dimensions < width,
            rotation_sample: self.config.rotation_sample,
            pooling: self.config.colbert_pooling,
        })
    }
}

fn encoder_settings(encoder: &EncoderInfo) -> EncoderSettings {
    EncoderSettings {
        fingerprint: encoder.fingerprint.clone(),
        dimensions: as_u32(encoder.dimensions),
    }
}

fn dense_settings(config: &Config, encoder: &EncoderInfo) -> DenseSettings {
    let is_matryoshka = !encoder.matryoshka_dimensions.is_empty();
    let dimensions = config
        .dimensions
        .unwrap_or(u32::MAX)
        .min(as_u32(encoder.dimensions));
    let dimensions = if is_matryoshka {
        declared_width(encoder, dimensions)
    } else {
        dimensions
    };
    let prefix = config.prefix_dimensions.min(dimensions);
    let prefix_dimensions = if is_matryoshka {
        declared_width(encoder, prefix).min(dimensions)
    } else {
        prefix
    };
    DenseSettings {
        dimensions,
        prefix_dimensions,
        prefix_depth: config.prefix_depth,
        rotated: !is_matryoshka,
        rotation_sample: config.rotation_sample,
        graph_min_passages: config.graph_min_passages,
    }
}

/// A Matryoshka model is good at the widths it was trained for, and no promise is made between them: the next one up.
fn declared_width(encoder: &EncoderInfo, wished: u32) -> u32 {
    let widths = encoder
        .matryoshka_dimensions
        .iter()
        .map(|width| as_u32(*width));
    widths
        .filter(|width| *width >= wished)
        .min()
        .unwrap_or(as_u32(encoder.dimensions))
}
