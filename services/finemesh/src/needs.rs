//! Which models a mesh has to load. Each takes some tenths of a second, and a command that asks one question waits for it.

use std::collections::BTreeMap;

use orchestrator::{RawConfig, RawPipeline, RawStage};

/// Models that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) encoders: bool,
    pub(crate) cross_encoder: bool,
}

impl Needs {
    /// Of a mesh that answers whatever it is asked.
    pub(crate) const ALL: Self = Self {
        encoders: true,
        cross_encoder: true,
    };
    /// Of a run that indexes, or deletes.
    pub(crate) const INDEXING: Self = Self {
        encoders: true,
        cross_encoder: false,
    };
    pub(crate) const NOTHING: Self = Self {
        encoders: false,
        cross_encoder: false,
    };

    /// What either needs.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            encoders: self.encoders || other.encoders,
            cross_encoder: self.cross_encoder || other.cross_encoder,
        }
    }

    fn of(pipeline: &RawPipeline) -> Self {
        let searches_vectors = pipeline.stages.contains(&RawStage::Dense);
        let scores_vectors = pipeline.rescore.is_some() || pipeline.late_interaction.is_some();
        Self {
            encoders: searches_vectors || scores_vectors,
            cross_encoder: pipeline.rerank.is_some(),
        }
    }
}

/// What each pipeline of a configuration needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PipelineNeeds {
    by_name: BTreeMap<String, Needs>,
    default: String,
}

impl PipelineNeeds {
    pub(crate) fn of(orchestrator: &RawConfig) -> Self {
        let needs = |(name, pipeline): (&String, &RawPipeline)| (name.clone(), Needs::of(pipeline));
        Self {
            by_name: orchestrator.pipelines.iter().map(needs).collect(),
            default: orchestrator.default_pipeline.clone(),
        }
    }

    /// What these need together; the empty name is the default pipeline's. One that there is not needs nothing: it will be refused.
    pub(crate) fn together<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Needs {
        let needs = |name: &str| {
            let name = if name.is_empty() { &self.default } else { name };
            self.by_name.get(name).copied().unwrap_or(Needs::NOTHING)
        };
        names
            .into_iter()
            .map(needs)
            .fold(Needs::NOTHING, Needs::and)
    }
}

#[cfg(test)]
mod tests {
    use orchestrator::RawHeadPart;

    use super::*;

    #[test]
    fn a_pipeline_needs_what_its_stages_compute_with() {
        let mut raw = RawConfig::default();
        let sparse = raw.pipelines["sparse"].clone();
        let judged = RawPipeline {
            rerank: Some(RawHeadPart::default()),
            ..sparse.clone()
        };
        let rescored = RawPipeline {
            rescore: Some(RawHeadPart::default()),
            ..sparse
        };
        raw.pipelines.insert("judged".into(), judged);
        raw.pipelines.insert("rescored".into(), rescored);
        let needs = PipelineNeeds::of(&raw);
        let reading_alone = Needs {
            encoders: false,
            cross_encoder: true,
        };
        let cases = [
            ("sparse", Needs::NOTHING),
            ("dense", Needs::INDEXING),
            ("hybrid", Needs::INDEXING),
            ("colbert", Needs::INDEXING),
            ("full", Needs::ALL),
            ("judged", reading_alone),
            ("rescored", Needs::INDEXING),
            ("", Needs::INDEXING),
            ("unheard of", Needs::NOTHING),
        ];
        for (name, expected) in cases {
            assert_eq!(needs.together([name]), expected, "{name}");
        }
        assert_eq!(needs.together(["sparse", "judged", "dense"]), Needs::ALL);
        assert_eq!(needs.together([]), Needs::NOTHING);
        raw.default_pipeline = "full".into();
        assert_eq!(PipelineNeeds::of(&raw).together([""]), Needs::ALL);
    }
}
