//! What a catalog hands out: snapshots and segments that are ready to be searched.

use std::{fmt, sync::Arc};

use search_core::{
    Address, CollectionName, ErrorKind, FieldError, Filter, HeldSnapshot, RefusedSegment,
};

use super::PartLoader;
use crate::{
    attributes::Attributes,
    bitmap::Bitmap,
    documents::Documents,
    filter::CompiledFilter,
    manifest::{Manifest, SegmentEntry, title_tokens},
    store::ManifestVersion,
};

/// A segment ready to be searched.
pub struct ServedSegment<L: PartLoader> {
    /// Segment number.
    pub number: u32,
    /// The shard that it belongs to.
    pub shard: u32,
    /// Ids and texts.
    pub documents: Arc<Documents>,
    /// Typed metadata.
    pub attributes: Arc<Attributes>,
    /// The passages that are not deleted. None: all.
    pub live: Option<Arc<Bitmap>>,
    /// The loader's part.
    pub part: Arc<L::Segment>,
    pub(super) entry: SegmentEntry,
}

// Derived, it would ask that the loader is `Clone`.
impl<L: PartLoader> Clone for ServedSegment<L> {
    fn clone(&self) -> Self {
        Self {
            documents: Arc::clone(&self.documents),
            attributes: Arc::clone(&self.attributes),
            live: self.live.clone(),
            part: Arc::clone(&self.part),
            entry: self.entry.clone(),
            ..*self
        }
    }
}

impl<L: PartLoader> ServedSegment<L> {
    /// Passages that a search can find.
    #[must_use]
    pub fn live_passages(&self) -> u32 {
        self.entry.live_passages()
    }

    /// Whether the segment has this passage, and it is not deleted.
    #[must_use]
    pub fn has(&self, ordinal: u32) -> bool {
        let live = self.live.as_ref().is_none_or(|live| live.contains(ordinal));
        live && ordinal < self.documents.passages()
    }

    /// The passages that a search may return: those not deleted that satisfy the filter. None: all.
    #[must_use]
    pub fn allowed(&self, filter: Option<&CompiledFilter>) -> Option<Arc<Bitmap>> {
        let Some(filter) = filter else {
            return self.live.clone();
        };
        let mut allowed = filter.evaluate(&self.attributes, &self.documents);
        if let Some(live) = &self.live {
            allowed.and(live);
        }
        Some(Arc::new(allowed))
    }
}

/// A snapshot ready to be searched.
pub struct ServedSnapshot<L: PartLoader> {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// The shards served, ascending. Never empty.
    pub shards: Vec<u32>,
    /// Segments of these shards.
    pub segments: Vec<ServedSegment<L>>,
    /// Segments of these shards that were refused.
    pub refused: Vec<RefusedSegment>,
    /// What the loader made for the snapshot.
    pub snapshot: Arc<L::Snapshot>,
    pub(super) version: String,
}

impl<L: PartLoader> ServedSnapshot<L> {
    /// Fits a filter to the collection. The path of an error starts below the filter.
    pub fn compile(&self, filter: &Filter) -> Result<CompiledFilter, FieldError> {
        CompiledFilter::new(filter, &self.manifest.attributes)
    }

    /// Whether the shard is served.
    #[must_use]
    pub fn has_shard(&self, shard: u32) -> bool {
        self.shards.binary_search(&shard).is_ok()
    }

    /// The served segments of a shard.
    pub fn segments_of(&self, shard: u32) -> impl Iterator<Item = &ServedSegment<L>> {
        self.segments
            .iter()
            .filter(move |segment| segment.shard == shard)
    }

    /// How many segments of a shard were refused.
    #[must_use]
    pub fn refused_of(&self, shard: u32) -> u32 {
        let refused = self.refused.iter().filter(|segment| segment.shard == shard);
        u32::try_from(refused.count()).unwrap_or(u32::MAX)
    }

    /// A served segment.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&ServedSegment<L>> {
        let place = self
            .segments
            .binary_search_by_key(&number, |segment| segment.number);
        place.ok().and_then(|place| self.segments.get(place))
    }

    /// The segment of a passage that is served and not deleted.
    #[must_use]
    pub fn locate(&self, address: Address) -> Option<&ServedSegment<L>> {
        self.segment(address.segment())
            .filter(|segment| segment.has(address.ordinal()))
    }

    pub(super) fn is_of(&self, version: &ManifestVersion) -> bool {
        (self.manifest.number, &self.version) == (version.number, &version.version)
    }

    pub(super) fn describe(&self, loader: &L) -> HeldSnapshot {
        HeldSnapshot {
            collection: self.manifest.collection.clone(),
            number: self.manifest.number,
            shards: self.manifest.settings.shards,
            held_shards: self.shards.clone(),
            encoder_fingerprint: loader.encoder_fingerprint(&self.manifest).to_owned(),
            rescore_fingerprint: self.manifest.rescore_fingerprint().to_owned(),
            colbert_fingerprint: self.manifest.colbert_fingerprint().to_owned(),
            title_tokens: title_tokens(self.manifest.settings.passage_tokens),
            passages: self
                .segments
                .iter()
                .map(|segment| u64::from(segment.live_passages()))
                .sum(),
            refused: self.refused.clone(),
        }
    }
}

/// One shard of a served snapshot.
pub struct ServedShard<L: PartLoader> {
    /// The snapshot.
    pub snapshot: Arc<ServedSnapshot<L>>,
    /// The shard.
    pub number: u32,
}

impl<L: PartLoader> ServedShard<L> {
    /// Its served segments.
    pub fn segments(&self) -> impl Iterator<Item = &ServedSegment<L>> {
        self.snapshot.segments_of(self.number)
    }

    /// How many of its segments were refused.
    #[must_use]
    pub fn refused_segments(&self) -> u32 {
        self.snapshot.refused_of(self.number)
    }

    /// The segment of a passage of this shard that is served and not deleted.
    #[must_use]
    pub fn locate(&self, address: Address) -> Option<&ServedSegment<L>> {
        self.snapshot
            .locate(address)
            .filter(|segment| segment.shard == self.number)
    }
}

/// What was asked for is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHeld {
    /// The snapshot is not.
    #[error(fmt = snapshot_not_held)]
    Snapshot {
        /// Manifest number.
        number: u64,
        /// The collection.
        collection: CollectionName,
        /// The numbers that are held. Empty: the collection is not held at all.
        held: Vec<u64>,
        /// Why there may be less than there should be: what the last refresh could not do.
        problem: Option<String>,
    },
    /// The snapshot is, but not this shard of it.
    #[error("shard {shard} of {collection} is not held, but {held:?} are")]
    Shard {
        /// What was asked for.
        shard: u32,
        /// The collection.
        collection: CollectionName,
        /// The shards that are held.
        held: Vec<u32>,
    },
}

fn snapshot_not_held(
    number: &u64,
    collection: &CollectionName,
    held: &[u64],
    problem: &Option<String>,
    formatter: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match held {
        [] => write!(formatter, "no collection {collection} is held")?,
        held => write!(
            formatter,
            "snapshot {number} of {collection} is not held, but {held:?} are"
        )?,
    }
    problem
        .iter()
        .try_for_each(|problem| write!(formatter, " ({problem})"))
}

impl NotHeld {
    /// Which kind of failure this is for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Snapshot { held, problem, .. } if held.is_empty() => match problem {
                None => ErrorKind::NotFound,
                Some(_) => ErrorKind::Unavailable,
            },
            Self::Snapshot { .. } | Self::Shard { .. } => ErrorKind::FailedPrecondition,
        }
    }
}
