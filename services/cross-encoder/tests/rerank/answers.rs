//! What an answer holds.

use search_proto::rerank::{DescribeRequest, RerankRequest};

use crate::scripted::{Service, long, request};

#[tokio::test]
async fn the_highest_come_first_and_equal_ones_in_the_callers_order() {
    let mut service = Service::free();
    let answer = service
        .rerank(request(&["b", "d", "a", "d", "c"]))
        .await
        .unwrap();
    assert_eq!(answer.indexes, [1, 3, 4, 0, 2]);
    assert_eq!(answer.logits, [0.0, 0.0, -1.0, -2.0, -3.0]);
    assert_eq!(answer.scores[..2], [0.5, 0.5]);
    assert!(
        (answer.scores[4] - 0.047_425_874).abs() < 1e-6,
        "{:?}",
        answer.scores
    );
    assert_eq!((answer.unscored, answer.truncated_passages), (0, 0));
    assert_eq!((&*answer.fingerprint, answer.tokens), ("abc", vec![2; 5]));
    assert!(answer.timing.is_some());
    let best = RerankRequest {
        max_results: 2,
        ..request(&["b", "d", "a", "d", "c"])
    };
    let best = service.rerank(best).await.unwrap();
    assert_eq!((best.indexes, best.unscored), (vec![1, 3], 0));
}

#[tokio::test]
async fn a_stream_brings_each_batch_in_the_callers_order() {
    let mut service = Service::free();
    let mut stream = service.stream(long(&[100, 30, 200, 31, 100, 600])).await;
    let mut batches = Vec::new();
    while let Some(batch) = stream.message().await.unwrap() {
        assert_eq!(
            batch.batches,
            vec![batches.len() as u32; batch.indexes.len()]
        );
        assert!(batch.timing.is_some());
        batches.push((
            batch.indexes,
            batch.tokens,
            batch.unscored,
            batch.truncated_passages,
        ));
    }
    let expected = [
        (vec![0, 4], vec![100, 100], 4, 0),
        (vec![1, 3], vec![30, 31], 2, 0),
        (vec![2], vec![200], 1, 0),
        (vec![5], vec![500], 0, 1),
    ];
    assert_eq!(batches, expected);
}

#[tokio::test]
async fn many_passages_are_read_and_scored_to_the_last() {
    let mut service = Service::free();
    let passages: Vec<String> = (0..1000).map(|row| "x".repeat(1 + row * 7 % 120)).collect();
    let all = RerankRequest {
        passages,
        ..request(&[])
    };
    let answer = service.rerank(all).await.unwrap();
    assert!(answer.indexes.into_iter().eq(0..1000));
    let stats = service.app.stats();
    assert_eq!((stats.passages, stats.queued_passages), (1000, 0));
    let padding = stats.padding_tokens as f64 / (stats.tokens + stats.padding_tokens) as f64;
    assert!(padding < 0.1, "{stats:?}");
}

#[tokio::test]
async fn it_says_what_it_serves() {
    let mut service = Service::free();
    let described = service
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*described.name, &*described.fingerprint),
        ("scripted", "abc")
    );
    assert_eq!(
        (described.max_tokens, described.max_query_tokens),
        (500, 100)
    );
}
