//! Encoders that are slow, broken, gone or wrong.

use std::time::Duration;

use colbert_scorer::RawConfig;
use search_core::{Deadline, ErrorKind};
use search_proto::colbert::ScoreTextsRequest;
use search_proto::encoder::{
    Bundle, DescribeResponse, EncodeRequest, EncodeResponse, Task, TokenVectors,
};
use segment::store::Store;
use service_kit::status::{Pushback, kind_of, pushback_of, with_pushback};
use service_kit::{MeshChannel, now, with_deadline};
use testkit::Hosted;
use testkit::fakes::{FakeEncoder, Step};
use tonic::{Request, Status};

use crate::support::{Client, client, serve};

const FINGERPRINT: &str = "f00d";

fn bundle(name: &str, fingerprint: &str, token_dimensions: u32) -> Bundle {
    Bundle {
        name: name.to_owned(),
        fingerprint: fingerprint.to_owned(),
        dimensions: 3,
        token_dimensions,
        max_tokens: 64,
        matryoshka_dimensions: Vec::new(),
    }
}

fn serving(bundles: &[Bundle]) -> FakeEncoder {
    let encoder = FakeEncoder::default();
    let described = DescribeResponse {
        bundles: bundles.to_vec(),
        ..DescribeResponse::default()
    };
    encoder.describe.always(move |_| Ok(described.clone()));
    encoder.encode.always(|request| Ok(encoded(request)));
    encoder
}

/// Two tokens for each text, of two dimensions.
fn encoded(request: &EncodeRequest) -> EncodeResponse {
    let vectors = TokenVectors {
        dimensions: 2,
        vectors: vec![1.0, 0.0, 0.6, 0.8],
    };
    EncodeResponse {
        token_vectors: vec![vectors; request.texts.len()],
        fingerprint: request.expected_fingerprint.clone(),
        ..EncodeResponse::default()
    }
}

fn texts() -> ScoreTextsRequest {
    ScoreTextsRequest {
        query: "what".to_owned(),
        texts: vec!["this".to_owned(), "that".to_owned()],
        expected_fingerprint: String::new(),
    }
}

/// A scorer with these encoders and nothing stored.
struct Scorer {
    client: Client,
    _served: Hosted,
    _store: tempfile::TempDir,
}

async fn scorer(encoders: Vec<MeshChannel>) -> Scorer {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::local(folder.path()).unwrap();
    let served = serve(store, RawConfig::default(), encoders).await;
    Scorer {
        client: client(served.channel()),
        _served: served,
        _store: folder,
    }
}

impl Scorer {
    async fn refused(&mut self, request: impl tonic::IntoRequest<ScoreTextsRequest>) -> Status {
        self.client.score_texts(request).await.unwrap_err()
    }
}

#[tokio::test]
async fn the_first_bundle_with_token_vectors_is_asked_for_them() {
    let fake = serving(&[
        bundle("sentences", "none", 0),
        bundle("tokens", FINGERPRINT, 2),
    ]);
    let hosted = fake.host("encoder");
    let mut scorer = scorer(vec![hosted.channel()]).await;
    let scored = scorer
        .client
        .score_texts(texts())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(scored.fingerprint, FINGERPRINT);
    assert!(scored.scores.iter().all(|score| (score - 2.0).abs() < 0.02));
    let asked: Vec<_> = fake
        .encode
        .asked()
        .into_iter()
        .map(|it| it.question)
        .collect();
    let tasks: Vec<Task> = asked.iter().map(EncodeRequest::task).collect();
    assert_eq!(tasks, [Task::Query, Task::Passage]);
    assert!(
        asked
            .iter()
            .all(|it| it.with_token_vectors && it.expected_fingerprint == FINGERPRINT)
    );
    assert_eq!(asked[1].texts, texts().texts);
}

#[tokio::test]
async fn bundles_without_token_vectors_are_named() {
    let hosted = serving(&[bundle("sentences", "none", 0)]).host("encoder");
    let mut scorer = scorer(vec![hosted.channel()]).await;
    let named = ScoreTextsRequest {
        expected_fingerprint: "none".to_owned(),
        ..texts()
    };
    for request in [texts(), named] {
        let status = scorer.refused(request).await;
        assert_eq!(kind_of(&status), ErrorKind::FailedPrecondition);
        let part = "gives no token vectors with none (sentences)";
        assert!(status.message().contains(part), "{status:?}");
    }
}

#[tokio::test]
async fn invalid_answers_are_the_encoders_fault() {
    type Spoil = fn(&mut EncodeResponse);
    let spoils: [(&str, Spoil); 7] = [
        ("fingerprint: is other, not f00d", |it| {
            it.fingerprint = "other".to_owned()
        }),
        ("token_vectors: has 0 entries for 1 texts", |it| {
            it.token_vectors.clear()
        }),
        ("token_vectors[0].dimensions: is 4, not 2", |it| {
            it.token_vectors[0].dimensions = 4
        }),
        (
            "token_vectors[0].vectors: has 3 numbers for 2 dimensions",
            |it| {
                it.token_vectors[0].vectors.truncate(3);
            },
        ),
        ("token_vectors[0]: token 1: component 0", |it| {
            it.token_vectors[0].vectors[2] = f32::NAN
        }),
        ("token_vectors[0]: token 0: the vector is all zero", |it| {
            it.token_vectors[0].vectors[..2].fill(0.0);
        }),
        ("token_vectors: has 2 entries for 1 texts", |it| {
            it.token_vectors.push(TokenVectors::default());
        }),
    ];
    // Of the query, then of the texts.
    for good_answers in [0, 1] {
        for (part, spoil) in spoils {
            let fake = serving(&[bundle("tokens", FINGERPRINT, 2)]);
            let one = ScoreTextsRequest {
                texts: vec!["this".to_owned()],
                ..texts()
            };
            let good = encoded(&EncodeRequest {
                texts: one.texts.clone(),
                expected_fingerprint: FINGERPRINT.to_owned(),
                ..EncodeRequest::default()
            });
            let mut bad = good.clone();
            spoil(&mut bad);
            for _ in 0..good_answers {
                fake.encode.then(Step::Now(Ok(good.clone())));
            }
            fake.encode.then(Step::Now(Ok(bad)));
            let hosted = fake.host("encoder");
            let status = scorer(vec![hosted.channel()]).await.refused(one).await;
            assert_eq!(kind_of(&status), ErrorKind::Internal, "{part}: {status:?}");
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
    }
}

#[tokio::test]
async fn a_query_without_tokens_is_the_callers_fault() {
    let fake = serving(&[bundle("tokens", FINGERPRINT, 2)]);
    fake.encode.then(Step::Now(Ok(EncodeResponse {
        token_vectors: vec![TokenVectors {
            dimensions: 2,
            vectors: Vec::new(),
        }],
        fingerprint: FINGERPRINT.to_owned(),
        ..EncodeResponse::default()
    })));
    let hosted = fake.host("encoder");
    let status = scorer(vec![hosted.channel()]).await.refused(texts()).await;
    assert_eq!(kind_of(&status), ErrorKind::InvalidArgument);
    assert!(
        status.message().contains("query: has no tokens"),
        "{status:?}"
    );
}

#[tokio::test]
async fn another_encoder_is_asked_when_one_is_gone_or_lacks_the_bundle() {
    let served = serving(&[bundle("tokens", FINGERPRINT, 2)]).host("right");
    let lacking = serving(&[bundle("others", "beef", 2)]).host("lacking");
    let mut gone = FakeEncoder::default().host("gone");
    gone.kill().await;
    let channels = [&gone, &lacking, &served].map(Hosted::channel);
    let mut scorer = scorer(channels.to_vec()).await;
    for _ in 0..3 {
        let request = ScoreTextsRequest {
            expected_fingerprint: FINGERPRINT.to_owned(),
            ..texts()
        };
        assert!(scorer.client.score_texts(request).await.is_ok());
    }
}

#[tokio::test]
async fn an_encoder_that_is_gone_or_full_says_so() {
    let mut gone = FakeEncoder::default().host("gone");
    gone.kill().await;
    let status = scorer(vec![gone.channel()]).await.refused(texts()).await;
    assert_eq!(kind_of(&status), ErrorKind::Unavailable);
    assert!(status.message().contains("encoder at gone"), "{status:?}");
    let full = serving(&[bundle("tokens", FINGERPRINT, 2)]);
    let refusal = Status::resource_exhausted("the queue is full");
    let pushback = Pushback::After(Duration::from_millis(70));
    let refusal = with_pushback(refusal, Some(pushback));
    full.encode.then(Step::Now(Err(refusal)));
    let hosted = full.host("full");
    let status = scorer(vec![hosted.channel()]).await.refused(texts()).await;
    assert_eq!(kind_of(&status), ErrorKind::ResourceExhausted);
    assert_eq!(pushback_of(&status), Some(pushback));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_passed_on_and_kept() {
    let fake = serving(&[bundle("tokens", FINGERPRINT, 2)]);
    fake.encode.then(Step::Never);
    let hosted = fake.host("encoder");
    let mut scorer = scorer(vec![hosted.channel()]).await;
    let minute = Deadline::after(now(), Duration::from_secs(60)).unwrap();
    let request: Request<ScoreTextsRequest> = with_deadline(texts(), Some(minute), now());
    let status = scorer.refused(request).await;
    assert_eq!(kind_of(&status), ErrorKind::DeadlineExceeded);
    let asked = fake.encode.asked();
    assert_eq!(asked.len(), 1, "the texts are not encoded any more");
    assert!(asked[0].deadline.is_some_and(|until| until <= minute));
}
