//! The encodings of recent queries, least recently used first to go, within a bound in bytes.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// What an entry costs beside its text and its numbers.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// One text's encoding.
#[derive(Debug, PartialEq)]
pub(crate) struct TextEncoding {
    pub(crate) vector: Vec<f32>,
    /// `None`: they were not asked for.
    pub(crate) token_vectors: Option<Vec<f32>>,
    pub(crate) tokens: u32,
}

/// Query texts, to the byte, and their encodings. Passages are not kept: they are encoded once.
#[derive(Debug)]
pub(crate) struct QueryCache(Cache<Arc<str>, Arc<TextEncoding>>);

impl QueryCache {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|text: &Arc<str>, encoding: &Arc<TextEncoding>| weight(text, encoding));
        Self(cache.build())
    }

    /// Only an encoding with token vectors answers who wants them.
    pub(crate) fn get(&self, text: &str, with_token_vectors: bool) -> Option<Arc<TextEncoding>> {
        let found = self.0.get(text)?;
        (!with_token_vectors || found.token_vectors.is_some()).then_some(found)
    }

    pub(crate) fn insert(&self, text: &str, encoding: &Arc<TextEncoding>) {
        self.0.insert(Arc::from(text), Arc::clone(encoding));
    }
}

fn weight(text: &str, encoding: &TextEncoding) -> u32 {
    let numbers = encoding.vector.len() + encoding.token_vectors.as_ref().map_or(0, Vec::len);
    u32::try_from(ENTRY_OVERHEAD_BYTES + text.len() + numbers * size_of::<f32>())
        .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(token_vectors: Option<Vec<f32>>) -> Arc<TextEncoding> {
        Arc::new(TextEncoding {
            vector: vec![1.0; 100],
            token_vectors,
            tokens: 3,
        })
    }

    #[test]
    fn only_an_encoding_that_has_what_is_wanted_is_found() {
        let cache = QueryCache::new(100_000);
        cache.insert("deadline", &encoding(None));
        assert!(cache.get("deadline", false).is_some());
        assert!(cache.get("deadline", true).is_none());
        assert!(cache.get("Deadline", false).is_none());
        cache.insert("deadline", &encoding(Some(vec![0.0; 300])));
        assert!(cache.get("deadline", true).is_some() && cache.get("deadline", false).is_some());
    }

    #[test]
    fn it_keeps_to_its_bytes_and_forgets_what_was_used_longest_ago() {
        let cache = QueryCache::new(10 * (ENTRY_OVERHEAD_BYTES as u64 + 1 + 400));
        for text in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
            cache.insert(text, &encoding(None));
            cache.0.run_pending_tasks();
        }
        assert!(cache.get("0", false).is_some());
        cache.0.run_pending_tasks();
        cache.insert("a", &encoding(None));
        cache.0.run_pending_tasks();
        assert!(cache.get("0", false).is_some());
        assert!(cache.get("1", false).is_none());
        assert!(cache.0.weighted_size() <= 10 * 657);
    }

    #[test]
    fn without_room_it_keeps_nothing() {
        let cache = QueryCache::new(0);
        cache.insert("a", &encoding(None));
        cache.0.run_pending_tasks();
        assert!(cache.get("a", false).is_none());
    }
}
