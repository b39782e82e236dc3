//! Answers of the endpoint, least recently used first to go, within a bound in bytes.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use crate::completion::Answer;

/// What an entry costs beside its texts.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The whole request: model, prompt, texts and parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(request_body: &[u8]) -> Self {
        Self(Sha256::digest(request_body).into())
    }
}

/// Answers that could be used. Which those are, the method knows.
#[derive(Debug)]
pub(crate) struct AnswerCache(Cache<Key, Arc<Answer>>);

impl AnswerCache {
    pub(crate) fn new(capacity_bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &Key, answer: &Arc<Answer>| weight(answer));
        Self(cache.build())
    }

    pub(crate) fn get(&self, key: Key) -> Option<Arc<Answer>> {
        self.0.get(&key)
    }

    pub(crate) fn insert(&self, key: Key, answer: Arc<Answer>) {
        self.0.insert(key, answer);
    }
}

fn weight(answer: &Answer) -> u32 {
    let alternatives = answer.first_token.iter();
    let tokens: usize = alternatives
        .map(|alternative| size_of_val(alternative) + alternative.token.len())
        .sum();
    u32::try_from(ENTRY_OVERHEAD_BYTES + answer.text.len() + tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Arc<Answer> {
        Arc::new(Answer {
            text: "x".repeat(bytes),
            ..Answer::default()
        })
    }

    #[test]
    fn one_byte_makes_another_request() {
        let cache = AnswerCache::new(1024 * 1024);
        cache.insert(Key::of(b"a"), answer(1));
        assert!(cache.get(Key::of(b"a")).is_some());
        assert!(cache.get(Key::of(b"b")).is_none());
    }

    #[test]
    fn the_bound_is_in_bytes() {
        let cache = AnswerCache::new(10_000);
        for number in 0..100_u8 {
            cache.insert(Key::of(&[number]), answer(1000));
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.weighted_size() <= 10_000);
        let none = AnswerCache::new(0);
        none.insert(Key::of(b"a"), answer(1));
        none.0.run_pending_tasks();
        assert!(none.get(Key::of(b"a")).is_none());
    }
}
