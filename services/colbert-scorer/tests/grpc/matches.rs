//! Which token matched which.

use std::collections::BTreeSet;

use search_core::Address;
use search_proto::colbert::{MatchRequest, MatchResponse};

use crate::support::{World, documents, options};

/// More tokens than are matched at a time.
fn long_query() -> String {
    let words: Vec<String> = (0..70).map(|number| format!("w{}", number * 5)).collect();
    words.join(" ")
}

async fn matched(world: &World, request: MatchRequest) -> MatchResponse {
    world.client().r#match(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn matches_name_the_words_and_sum_to_the_score() {
    // Wider tokens are rotated and cut to 96 dimensions.
    for dimensions in [64, 128] {
        let world = World::start(dimensions, options(dimensions), &documents(30)).await;
        for query in ["w12", "w7 w8 unheard w300", &long_query()] {
            assert_matches_are_right(&world, query).await;
        }
    }
}

async fn assert_matches_are_right(world: &World, query: &str) {
    let passages = world.passages().await;
    let addresses: Vec<u64> = passages.iter().map(|it| it.address.to_u64()).collect();
    let request = world.match_request(query, addresses.clone()).await;
    let matches = matched(world, request).await.passages;
    let scored = world.score(query, addresses).await;
    for ((passage, found), score) in passages.iter().zip(&matches).zip(&scored.scores) {
        let sum: f32 = found.cosines.iter().fold(0.0, |sum, cosine| sum + cosine);
        assert_eq!(sum.to_bits(), score.to_bits(), "{}", passage.id);
        let words: Vec<&str> = passage.text.split_whitespace().collect();
        assert_eq!(found.tokens.len(), query.split_whitespace().count());
        for (word, token) in query.split_whitespace().zip(&found.tokens) {
            assert!((*token as usize) < words.len());
            // A word that is there is matched with its first occurrence.
            let place = words.iter().position(|other| *other == word);
            assert!(place.is_none_or(|place| place == *token as usize), "{word}");
        }
    }
}

#[tokio::test]
async fn pooled_tokens_are_named_by_one_that_they_stand_for() {
    let mut options = options(64);
    options.indexer.colbert_pooling = 2;
    let world = World::start(64, options, &documents(30)).await;
    for passage in world.passages().await {
        let address = vec![passage.address.to_u64()];
        let request = world.match_request(&passage.text, address.clone()).await;
        let found = matched(&world, request).await.passages.remove(0);
        let words = passage.text.split_whitespace().count();
        let named: BTreeSet<u32> = found.tokens.iter().copied().collect();
        assert!(named.len() <= words.div_ceil(2), "{named:?} of {words}");
        assert!(named.iter().all(|token| (*token as usize) < words));
        let scored = world.score(&passage.text, address).await;
        let sum: f32 = found.cosines.iter().fold(0.0, |sum, cosine| sum + cosine);
        assert_eq!(sum.to_bits(), scored.scores[0].to_bits());
    }
}

#[tokio::test]
async fn what_is_unknown_matches_nothing() {
    let world = World::small(&documents(10)).await;
    world.mesh.delete(&["d0000"]).await.unwrap();
    world.mesh.refresh().await;
    let passages = world.passages().await;
    let deleted = passages.iter().find(|it| it.id == "d0000").unwrap();
    let live = passages.iter().find(|it| it.id == "d0001").unwrap();
    let nowhere = Address::new(90, 0);
    let asked = [deleted.address, live.address, nowhere].map(Address::to_u64);
    let request = world.match_request("w1 w2 w3", asked.to_vec()).await;
    let matches = matched(&world, request).await.passages;
    let tokens: Vec<usize> = matches.iter().map(|found| found.tokens.len()).collect();
    assert_eq!(tokens, [0, 3, 0]);
}
