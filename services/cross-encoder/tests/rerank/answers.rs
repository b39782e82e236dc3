//! What an answer holds.

use search_proto::rerank::{DescribeRequest, RerankRequest};

use crate::scripted::{Service, in_windows, long, request};

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
async fn a_long_passage_has_the_score_of_its_best_window() {
    let mut service = Service::free();
    let cases = [
        // As many windows as it takes, with all of their tokens.
        (9, 0.0, 1500, 0),
        (3, 0.0, 1500, 0),
        // What is behind the last one is not read, and that is said.
        (2, 0.0, 1000, 1),
        (1, -2.0, 500, 1),
        (0, -2.0, 500, 1),
    ];
    for (max_windows, logit, tokens, truncated) in cases {
        let mut request = in_windows(&['b', 'd', 'c'], max_windows);
        request.passages.push("c".into());
        let answer = service.rerank(request).await.unwrap();
        let place = answer.indexes.iter().position(|&index| index == 0).unwrap();
        assert_eq!(
            (
                answer.logits[place],
                answer.tokens[place],
                answer.truncated_passages
            ),
            (logit, tokens, truncated),
            "{max_windows}"
        );
        assert_eq!((answer.logits.len(), answer.unscored), (2, 0));
        assert_eq!(answer.logits[1 - place], -1.0);
    }
}

#[tokio::test]
async fn a_stream_brings_a_long_passage_with_its_last_window() {
    let mut service = Service::free();
    let mut request = in_windows(&['b', 'd', 'c'], 9);
    request.passages.insert(0, "a".into());
    let mut stream = service.stream(request).await;
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        assert!(message.timing.is_some());
        messages.push((
            message.indexes,
            message.batches,
            message.tokens,
            message.unscored,
        ));
    }
    // Each window is a batch of its own.
    let expected = [
        (vec![0], vec![0], vec![2], 1),
        (vec![1], vec![3], vec![1500], 0),
    ];
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn a_call_with_a_long_passage_takes_turns_by_windows() {
    let mut service = Service::gated();
    let (mut first, mut second) = (service.client.clone(), service.client.clone());
    let in_many = tokio::spawn(async move { first.rerank(in_windows(&['a'; 10], 10)).await });
    assert_eq!(service.begun().await, [500]);
    let in_one = tokio::spawn(async move { second.rerank(long(&[200])).await });
    let waiting_tokens = 9 * 500 + 200;
    service
        .until(|app| app.stats().waiting_tokens == waiting_tokens)
        .await;
    service.script.gate.send(()).unwrap();
    assert_eq!(service.begun().await, [200]);
    service.open();
    assert_eq!(in_one.await.unwrap().unwrap().into_inner().tokens, [200]);
    assert_eq!(in_many.await.unwrap().unwrap().into_inner().tokens, [5000]);
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
