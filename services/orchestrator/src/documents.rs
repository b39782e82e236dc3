//! Stored passages by address, from the shards that hold them.

use crate::clients::{Fetched, Passage, Timing};
use crate::error::SearchError;
use crate::funnel::{Run, StageWatch};
use futures::future::join_all;
use search_core::{Address, StageReason, StageStatus};
use service_kit::MAX_MESSAGE_BYTES;
use std::collections::BTreeMap;

/// Most bytes of the passages of one answer: what a message holds, less a quarter for its structure.
pub(crate) const MAX_ANSWER_BYTES: usize = MAX_MESSAGE_BYTES / 4 * 3;

/// What is wanted of each passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The id of its document.
    Ids,
    /// Everything, as much of it as one answer holds.
    Texts,
}

impl Wanted {
    /// Most addresses of one call: the contract's limit for ids, and as many texts as are rarely too large for one answer.
    const fn most_addresses(self) -> usize {
        match self {
            Self::Ids => 65_536,
            Self::Texts => 256,
        }
    }

    /// Behind so many bytes of one shard nothing more is wanted of it: no answer holds it.
    const fn most_bytes(self) -> usize {
        match self {
            Self::Ids => usize::MAX,
            Self::Texts => MAX_ANSWER_BYTES,
        }
    }
}

/// A passage, its document and the shard that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PassageRef {
    pub(crate) address: Address,
    /// The document's first passage, which names it.
    pub(crate) document: Address,
    pub(crate) shard: u32,
}

/// What was looked up.
#[derive(Debug, Default)]
pub(crate) struct LookedUp {
    /// Parallel to what was asked for; `None` where a replica does not have it, or it was left out.
    pub(crate) passages: Vec<Option<Passage>>,
    /// Passages that a replica does not have.
    pub(crate) unknown: usize,
    /// Passages that were left out for their size.
    pub(crate) oversized: usize,
    /// Shards that were asked, and the time of each call.
    pub(crate) calls: Vec<(u32, Timing)>,
    /// Shards that failed.
    pub(crate) lost: Vec<(u32, SearchError)>,
}

/// A position among what was asked for, and the address there.
type Place = (usize, Address);

/// What one shard gave.
struct ShardPassages<'a> {
    shard: u32,
    fetched: Vec<(&'a [Place], Fetched)>,
    oversized: usize,
}

/// Positions of the passages, by shard.
pub(crate) fn by_shard(
    passages: impl IntoIterator<Item = (usize, PassageRef)>,
) -> BTreeMap<u32, Vec<Place>> {
    let mut shards: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
    for (position, passage) in passages {
        shards
            .entry(passage.shard)
            .or_default()
            .push((position, passage.address));
    }
    shards
}

impl LookedUp {
    /// Fails where a shard was lost; of what may be a part, only where no shard has answered, or the request has to fail with the error.
    pub(crate) fn checked(mut self, may_be_part: bool) -> Result<Self, SearchError> {
        let is_part = may_be_part && !self.calls.is_empty();
        let is_fatal = |(_, error): &(u32, SearchError)| !is_part || !error.may_degrade();
        match self.lost.iter().position(is_fatal) {
            Some(place) => Err(self.lost.swap_remove(place).1),
            None => Ok(self),
        }
    }

    /// Notes who was asked, and what is missing.
    pub(crate) fn note(&self, watch: &mut StageWatch) {
        for (shard, _) in &self.calls {
            watch.ask(*shard);
        }
        for (shard, error) in &self.lost {
            watch.miss(*shard);
            watch.lessen(StageStatus::Partial, error.reason_of_shard());
        }
        if self.unknown > 0 {
            watch.lessen(StageStatus::Partial, StageReason::DamagedSegment);
        }
        if self.oversized > 0 {
            watch.lessen(StageStatus::Partial, StageReason::Size);
        }
    }

    fn add(&mut self, answer: ShardPassages<'_>) {
        self.oversized += answer.oversized;
        for (places, fetched) in answer.fetched {
            self.calls.push((answer.shard, fetched.timing));
            for ((position, _), passage) in places.iter().zip(fetched.passages) {
                self.unknown += usize::from(passage.is_none());
                self.passages[*position] = passage;
            }
        }
    }
}

impl Run<'_> {
    /// Looks passages up, all shards at the same time. Where texts are too many for an answer, the first ones are given.
    pub(crate) async fn fetch(self, passages: &[PassageRef], wanted: Wanted) -> LookedUp {
        let shards = by_shard(passages.iter().copied().enumerate());
        let calls = shards
            .iter()
            .map(|(shard, places)| self.fetch_from(*shard, places, wanted));
        let mut looked_up = LookedUp {
            passages: vec![None; passages.len()],
            ..LookedUp::default()
        };
        for (shard, answer) in shards.keys().zip(join_all(calls).await) {
            match answer {
                Ok(answer) => looked_up.add(answer),
                Err(error) => {
                    tracing::warn!(shard, %error, "passages cannot be looked up");
                    looked_up.lost.push((*shard, error));
                }
            }
        }
        looked_up
    }

    /// Positions of these passages by document id, then address: the order of equal scores. What cannot be shown comes last.
    pub(crate) async fn order_by_document_id(
        self,
        passages: &[PassageRef],
    ) -> Result<Vec<usize>, SearchError> {
        let looked_up = self.fetch(passages, Wanted::Ids).await.checked(false)?;
        let ids = looked_up.passages.into_iter();
        let ids: Vec<Option<String>> = ids
            .map(|passage| passage.map(|passage| passage.document_id))
            .collect();
        let mut order: Vec<usize> = (0..passages.len()).collect();
        order.sort_by_key(|position| {
            let id = &ids[*position];
            (id.is_none(), id, passages[*position].address)
        });
        Ok(order)
    }

    /// One part behind the other; a part whose answer would be too large is asked for in halves.
    async fn fetch_from<'p>(
        self,
        shard: u32,
        places: &'p [Place],
        wanted: Wanted,
    ) -> Result<ShardPassages<'p>, SearchError> {
        let mut parts: Vec<&[Place]> = places.chunks(wanted.most_addresses()).rev().collect();
        let mut answer = ShardPassages {
            shard,
            fetched: Vec::new(),
            oversized: 0,
        };
        let mut bytes = 0;
        while let Some(part) = parts.pop() {
            if bytes > wanted.most_bytes() {
                answer.oversized += part.len();
                continue;
            }
            match self.fetch_part(shard, part, wanted).await? {
                Some(fetched) => {
                    bytes += bytes_of(&fetched);
                    answer.fetched.push((part, fetched));
                }
                None if part.len() > 1 => {
                    let (front, back) = part.split_at(part.len() / 2);
                    parts.extend([back, front]);
                }
                None => answer.oversized += 1,
            }
        }
        Ok(answer)
    }

    /// None: the answer would be too large.
    async fn fetch_part(
        self,
        shard: u32,
        places: &[Place],
        wanted: Wanted,
    ) -> Result<Option<Fetched>, SearchError> {
        let addresses: Vec<Address> = places.iter().map(|(_, address)| *address).collect();
        let holders = self.placement.documents.of_shard(shard);
        let target = self.target(shard);
        let call = self.mesh.sparse.call(holders, |client| {
            client.fetch(target, &addresses, wanted == Wanted::Ids)
        });
        match call.await {
            Err(error) if error.is_too_large() => Ok(None),
            answer => Ok(Some(answer?)),
        }
    }
}

/// Title and text as an encoder reads them, cut to so many bytes; none where there is nothing to read.
pub(crate) fn readable(passage: &Passage, most_bytes: usize) -> Option<String> {
    let mut text = if passage.title.is_empty() {
        passage.text.clone()
    } else {
        format!("{} {}", passage.title, passage.text)
    };
    text.truncate(text.floor_char_boundary(most_bytes));
    (!text.trim().is_empty()).then_some(text)
}

fn bytes_of(fetched: &Fetched) -> usize {
    fetched.passages.iter().flatten().map(Passage::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(title: &str, text: &str, most_bytes: usize) -> Option<String> {
        let passage = Passage {
            title: title.to_owned(),
            text: text.to_owned(),
            ..Passage::default()
        };
        readable(&passage, most_bytes)
    }

    #[test]
    fn title_and_text_are_joined_by_a_space_and_cut_between_characters() {
        assert_eq!(read("A title", "a text", 100).unwrap(), "A title a text");
        assert_eq!(read("", "a text", 100).unwrap(), "a text");
        assert_eq!(read("", "aéü", 4).unwrap(), "aé");
        assert_eq!(read("", "aéü", 2).unwrap(), "a");
        for (title, text) in [("", ""), ("", " \n"), (" ", "\u{3000}")] {
            assert_eq!(read(title, text, 100), None);
        }
        assert_eq!(read("", "é", 1), None);
    }
}
