//! Stored passages by address, from the shards that hold them.

use crate::clients::{Fetched, Passage, Timing};
use crate::error::SearchError;
use crate::funnel::Run;
use futures::future::try_join_all;
use search_core::Address;
use std::collections::BTreeMap;

/// Most addresses that one call may name, whole passages; the contract's limit. Ids alone may be more, which nothing here needs.
const MAX_FETCH: usize = 4096;

/// A passage and the shard that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PassageRef {
    pub(crate) address: Address,
    pub(crate) shard: u32,
}

/// What was looked up, parallel to what was asked for; `None` where a replica does not have it.
#[derive(Debug, Default)]
pub(crate) struct LookedUp {
    pub(crate) passages: Vec<Option<Passage>>,
    /// Shards that were asked, and the time of each call.
    pub(crate) calls: Vec<(u32, Timing)>,
}

/// Positions of the passages, by shard.
pub(crate) fn by_shard(
    passages: impl IntoIterator<Item = (usize, PassageRef)>,
) -> BTreeMap<u32, Vec<(usize, Address)>> {
    let mut shards: BTreeMap<u32, Vec<(usize, Address)>> = BTreeMap::new();
    for (position, passage) in passages {
        shards
            .entry(passage.shard)
            .or_default()
            .push((position, passage.address));
    }
    shards
}

impl Run<'_> {
    /// Looks passages up, or their document ids alone.
    pub(crate) async fn fetch(
        self,
        passages: &[PassageRef],
        ids_only: bool,
    ) -> Result<LookedUp, SearchError> {
        let shards = by_shard(passages.iter().copied().enumerate());
        let calls = shards.iter().flat_map(|(shard, places)| {
            places
                .chunks(MAX_FETCH)
                .map(|places| self.fetch_from(*shard, places, ids_only))
        });
        let mut looked_up = LookedUp {
            passages: vec![None; passages.len()],
            calls: Vec::new(),
        };
        for (shard, places, fetched) in try_join_all(calls).await? {
            looked_up.calls.push((shard, fetched.timing));
            for ((position, _), passage) in places.iter().zip(fetched.passages) {
                looked_up.passages[*position] = passage;
            }
        }
        Ok(looked_up)
    }

    async fn fetch_from(
        self,
        shard: u32,
        places: &[(usize, Address)],
        ids_only: bool,
    ) -> Result<(u32, &[(usize, Address)], Fetched), SearchError> {
        let addresses: Vec<Address> = places.iter().map(|(_, address)| *address).collect();
        let holders = &self.placement.documents.holders[shard as usize];
        let target = self.target(shard);
        let call = self
            .mesh
            .sparse
            .call(holders, |client| client.fetch(target, &addresses, ids_only));
        Ok((shard, places, call.await?))
    }
}
