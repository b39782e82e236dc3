//! The service through its pipes, over an encoder that is scripted.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use encoder::{App, Config, RawConfig};
use inference::{
    BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Priority, Task as TextTask,
    TextEncoder,
};
use search_core::Deadline;
use search_proto::encoder::encoder_service_client::EncoderServiceClient;
use search_proto::encoder::{
    DescribeRequest, EncodeRequest, EncodeResponse, Task, TextTokens, TokenizeRequest,
    TokenizeResponse,
};
use service_kit::status::fields_of;
use service_kit::{MeshChannel, Problems, ServerBuilder, ServerLimits, with_deadline};
use tonic::{Code, Status};

/// Two dimensions: the text's length, and how often it was asked before. Each byte is a token.
struct Scripted {
    info: EncoderInfo,
    jobs: Mutex<Vec<EncodeJob>>,
    /// What every job gets instead of vectors.
    failure: Option<EncodeError>,
    /// Jobs never end.
    hangs: bool,
    abandoned: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Scripted {
    fn new() -> Self {
        let info = EncoderInfo {
            name: "scripted".into(),
            fingerprint: "abc".into(),
            dimensions: 2,
            token_dimensions: 3,
            max_tokens: 4096,
            matryoshka_dimensions: vec![1],
        };
        Self {
            info,
            jobs: Mutex::default(),
            failure: None,
            hangs: false,
            abandoned: Arc::default(),
        }
    }
}

impl TextEncoder for Scripted {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn token_spans(&self, _: &str) -> Result<Vec<Range<usize>>, EncodeError> {
        Err(EncodeError::Stopped)
    }

    fn tokens(
        &self,
        texts: Vec<String>,
        task: TextTask,
    ) -> BoxFuture<Result<Vec<Vec<String>>, EncodeError>> {
        let tokens = |text: &String| {
            text.bytes()
                .map(|byte| format!("{task:?} {byte}"))
                .collect()
        };
        let tokens = texts.iter().map(tokens).collect();
        Box::pin(std::future::ready(
            self.failure.clone().map_or(Ok(tokens), Err),
        ))
    }

    fn encode(&self, job: EncodeJob) -> BoxFuture<Result<Encoded, EncodeError>> {
        let mut jobs = self.jobs.lock().unwrap();
        let before = jobs.len() as f32;
        jobs.push(job.clone());
        let result = self
            .failure
            .clone()
            .map_or_else(|| Ok(vectors(&job, before)), Err);
        let (hangs, dropped) = (self.hangs, CountDrop(Arc::clone(&self.abandoned)));
        Box::pin(async move {
            let _dropped = dropped;
            if hangs {
                std::future::pending::<()>().await;
            }
            result
        })
    }
}

fn vectors(job: &EncodeJob, before: f32) -> Encoded {
    let lengths = || job.texts.iter().map(String::len);
    Encoded {
        vectors: lengths()
            .flat_map(|length| [length as f32, before])
            .collect(),
        token_vectors: job
            .with_token_vectors
            .then(|| lengths().map(|length| vec![0.5; length * 3]).collect()),
        tokens: lengths().map(|length| length as u32).collect(),
        truncated_texts: lengths().filter(|&length| length > 4096).count() as u32,
        queue: Duration::from_micros(7),
        compute: Duration::from_micros(9),
        model: Duration::from_micros(8),
        threads: 1,
    }
}

struct Mesh {
    encoder: Arc<Scripted>,
    client: EncoderServiceClient<MeshChannel>,
}

fn start(encoder: Scripted, config: Config) -> Mesh {
    start_both(encoder, None, config)
}

fn start_both(encoder: Scripted, second: Option<Arc<dyn TextEncoder>>, config: Config) -> Mesh {
    let encoder = Arc::new(encoder);
    let app = App::start(config, Arc::clone(&encoder) as Arc<dyn TextEncoder>, second);
    let mut builder = ServerBuilder::new(ServerLimits::default());
    app.add_to(&mut builder);
    let server = builder.build(search_proto::FILE_DESCRIPTOR_SET).unwrap();
    let (listener, channel) = service_kit::in_process("encoder");
    tokio::spawn(server.serve_in_process(listener, std::future::pending()));
    Mesh {
        encoder,
        client: EncoderServiceClient::new(channel)
            .max_decoding_message_size(service_kit::MAX_MESSAGE_BYTES),
    }
}

fn query(texts: &[&str]) -> EncodeRequest {
    EncodeRequest {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        task: Task::Query.into(),
        ..EncodeRequest::default()
    }
}

fn tokenize(texts: &[&str]) -> TokenizeRequest {
    TokenizeRequest {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        task: Task::Passage.into(),
        expected_fingerprint: String::new(),
    }
}

fn paths_of(status: &Status) -> (Code, String) {
    let fields = fields_of(status).into_iter();
    let paths: Vec<String> = fields.map(|field| field.path).collect();
    (status.code(), paths.join(","))
}

impl Mesh {
    async fn tokenize(&mut self, request: TokenizeRequest) -> Result<TokenizeResponse, Status> {
        Ok(self.client.tokenize(request).await?.into_inner())
    }

    async fn encode(&mut self, request: EncodeRequest) -> Result<EncodeResponse, Status> {
        Ok(self.client.encode(request).await?.into_inner())
    }

    async fn refused(&mut self, request: EncodeRequest) -> (Code, String) {
        paths_of(&self.encode(request).await.unwrap_err())
    }
}

#[tokio::test]
async fn repeated_queries_come_from_the_cache_and_the_rest_is_encoded_together() {
    let mut mesh = start(Scripted::new(), Config::default());
    let first = mesh.encode(query(&["aa", "b"])).await.unwrap();
    assert_eq!(
        (first.vectors.as_slice(), first.cached_texts),
        ([2.0, 0.0, 1.0, 0.0].as_slice(), 0)
    );
    assert_eq!(
        (
            first.timing.unwrap().queue_us,
            first.timing.unwrap().compute_us
        ),
        (7, 9)
    );
    let second = mesh
        .encode(query(&["ccc", "b", "dddd", "aa"]))
        .await
        .unwrap();
    assert_eq!(second.vectors, [3.0, 1.0, 1.0, 0.0, 4.0, 1.0, 2.0, 0.0]);
    assert_eq!(
        (second.cached_texts, second.tokens.as_slice()),
        (2, [3, 1, 4, 2].as_slice())
    );
    assert_eq!(mesh.encoder.jobs.lock().unwrap()[1].texts, ["ccc", "dddd"]);
    let third = mesh.encode(query(&["b"])).await.unwrap();
    assert_eq!(
        (third.cached_texts, third.timing.unwrap().compute_us),
        (1, 0)
    );
    assert_eq!(mesh.encoder.jobs.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn token_vectors_passages_and_truncated_texts_are_not_taken_from_the_wrong_entry() {
    let mut mesh = start(Scripted::new(), Config::default());
    mesh.encode(query(&["aa"])).await.unwrap();
    let with = EncodeRequest {
        with_token_vectors: true,
        ..query(&["aa"])
    };
    let answer = mesh.encode(with.clone()).await.unwrap();
    assert_eq!(
        (answer.cached_texts, answer.token_vectors[0].vectors.len()),
        (0, 6)
    );
    assert_eq!(answer.token_vectors[0].dimensions, 3);
    assert_eq!(mesh.encode(with).await.unwrap().cached_texts, 1);
    let without = mesh.encode(query(&["aa"])).await.unwrap();
    assert_eq!((without.cached_texts, without.token_vectors.len()), (1, 0));

    let passage = EncodeRequest {
        task: Task::Passage.into(),
        ..query(&["aa"])
    };
    assert_eq!(mesh.encode(passage.clone()).await.unwrap().cached_texts, 0);
    assert_eq!(mesh.encode(passage).await.unwrap().cached_texts, 0);
    let priorities: Vec<Priority> = mesh
        .encoder
        .jobs
        .lock()
        .unwrap()
        .iter()
        .map(|job| job.priority)
        .collect();
    assert_eq!(priorities[0], Priority::Interactive);
    assert_eq!(priorities.last(), Some(&Priority::Bulk));

    let long = "x".repeat(5000);
    for _ in 0..2 {
        let answer = mesh.encode(query(&[&long])).await.unwrap();
        assert_eq!((answer.truncated_texts, answer.cached_texts), (1, 0));
    }
}

#[tokio::test]
async fn without_a_cache_everything_is_encoded() {
    let mut problems = Problems::default();
    let config = RawConfig { query_cache_mib: 0 }.validate("encoder", &mut problems);
    let mut mesh = start(Scripted::new(), config);
    mesh.encode(query(&["aa"])).await.unwrap();
    assert_eq!(mesh.encode(query(&["aa"])).await.unwrap().cached_texts, 0);
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let mut mesh = start(Scripted::new(), Config::default());
    let invalid = |path: &str| (Code::InvalidArgument, path.to_owned());
    assert_eq!(mesh.refused(query(&[])).await, invalid("texts"));
    assert_eq!(mesh.refused(query(&["x"; 1025])).await, invalid("texts"));
    assert_eq!(mesh.refused(query(&["x", ""])).await, invalid("texts[1]"));
    assert_eq!(
        mesh.refused(query(&[&"x".repeat(65_537)])).await,
        invalid("texts[0]")
    );
    assert_eq!(
        mesh.refused(EncodeRequest {
            task: 0,
            ..query(&["x"])
        })
        .await,
        invalid("task")
    );
    assert_eq!(
        mesh.refused(EncodeRequest {
            task: 77,
            ..query(&["x"])
        })
        .await,
        invalid("task")
    );
    // 4096 tokens of three numbers are 48 KiB: more than 339 texts might not fit into an answer.
    let many = EncodeRequest {
        with_token_vectors: true,
        ..query(&["x"; 340])
    };
    assert_eq!(mesh.refused(many).await, invalid("texts"));
    let most = EncodeRequest {
        with_token_vectors: true,
        ..query(&["x"; 339])
    };
    assert_eq!(mesh.encode(most).await.unwrap().token_vectors.len(), 339);

    let mut plain = Scripted::new();
    plain.info.token_dimensions = 0;
    let mut mesh = start(plain, Config::default());
    let with = EncodeRequest {
        with_token_vectors: true,
        ..query(&["x"])
    };
    assert_eq!(mesh.refused(with).await, invalid("with_token_vectors"));
}

#[tokio::test]
async fn another_bundle_is_refused_with_both_fingerprints() {
    let mut mesh = start(Scripted::new(), Config::default());
    let expecting = |fingerprint: &str| EncodeRequest {
        expected_fingerprint: fingerprint.into(),
        ..query(&["x"])
    };
    assert_eq!(
        mesh.encode(expecting("abc")).await.unwrap().fingerprint,
        "abc"
    );
    let status = mesh.encode(expecting("def")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("abc") && status.message().contains("def"),
        "{status}"
    );
    let described = mesh
        .client
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            described.name.as_str(),
            described.dimensions,
            described.max_tokens
        ),
        ("scripted", 2, 4096)
    );
    assert_eq!(described.matryoshka_dimensions, [1]);
}

#[tokio::test]
async fn each_bundle_is_chosen_by_its_fingerprint_and_has_a_cache_of_its_own() {
    let mut second = Scripted::new();
    (second.info.name, second.info.fingerprint) = ("wider".into(), "def".into());
    second.info.token_dimensions = 0;
    let second = Arc::new(second);
    let config = Config::default();
    let mut mesh = start_both(Scripted::new(), Some(second.clone()), config);
    let with = |fingerprint: &str| EncodeRequest {
        expected_fingerprint: fingerprint.into(),
        ..query(&["x"])
    };
    for (asked, answered, cached) in [
        ("", "abc", 0),
        ("def", "def", 0),
        ("abc", "abc", 1),
        ("def", "def", 1),
    ] {
        let answer = mesh.encode(with(asked)).await.unwrap();
        assert_eq!(
            (&*answer.fingerprint, answer.cached_texts),
            (answered, cached)
        );
    }
    let jobs = |encoder: &Scripted| encoder.jobs.lock().unwrap().len();
    assert_eq!((jobs(&mesh.encoder), jobs(&second)), (1, 1));
    // What a bundle cannot give is its own limit.
    let token_vectors = |fingerprint| EncodeRequest {
        with_token_vectors: true,
        ..with(fingerprint)
    };
    assert!(mesh.encode(token_vectors("abc")).await.is_ok());
    let refused = mesh.refused(token_vectors("def")).await;
    assert_eq!(
        refused,
        (Code::InvalidArgument, "with_token_vectors".to_owned())
    );
    let status = mesh.encode(with("ghi")).await.unwrap_err();
    let served = "expects the encoder bundle ghi, served is abc (scripted) and def (wider)";
    assert!(status.message().contains(served), "{status}");
    let described = mesh.client.describe(DescribeRequest {}).await.unwrap();
    let described = described.into_inner();
    let bundles = described
        .bundles
        .iter()
        .map(|bundle| bundle.fingerprint.as_str());
    assert_eq!(bundles.collect::<Vec<_>>(), ["abc", "def"]);
    assert_eq!(
        (described.fingerprint, described.token_dimensions),
        ("abc".into(), 3)
    );
}

#[tokio::test]
async fn the_encoders_failures_have_their_codes() {
    let cause = Arc::new(std::io::Error::other("out of memory"));
    let failures = [
        (
            EncodeError::QueueFull {
                queued_texts: 9,
                job_texts: 1,
                limit_texts: 9,
                retry_after: None,
            },
            Code::ResourceExhausted,
            "",
        ),
        (
            EncodeError::TooLate {
                wait: Duration::from_secs(2),
                retry_after: Some(Duration::from_secs(1)),
            },
            Code::ResourceExhausted,
            "",
        ),
        (EncodeError::DeadlineExceeded, Code::DeadlineExceeded, ""),
        (EncodeError::Stopped, Code::Unavailable, ""),
        (EncodeError::Model(cause), Code::Internal, ""),
        (
            EncodeError::InvalidText {
                index: 3,
                reason: "has no tokens".into(),
            },
            Code::InvalidArgument,
            "texts[3]",
        ),
    ];
    for (failure, code, path) in failures {
        let mut mesh = start(
            Scripted {
                failure: Some(failure),
                ..Scripted::new()
            },
            Config::default(),
        );
        assert_eq!(mesh.refused(query(&["x"])).await, (code, path.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_work_is_abandoned() {
    let mut mesh = start(
        Scripted {
            hangs: true,
            ..Scripted::new()
        },
        Config::default(),
    );
    let now = service_kit::now();
    let deadline = Deadline::after(now, Duration::from_millis(200));
    let status = mesh
        .client
        .encode(with_deadline(query(&["x"]), deadline, now))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(mesh.encoder.abandoned.load(Ordering::SeqCst), 1);
    let given: Vec<Option<Instant>> = mesh
        .encoder
        .jobs
        .lock()
        .unwrap()
        .iter()
        .map(|job| job.deadline)
        .collect();
    assert!(given[0].is_some_and(|at| at > now && at <= now + Duration::from_millis(200)));
}

#[tokio::test]
async fn tokens_are_those_of_the_token_vectors_and_nothing_is_computed() {
    let mut mesh = start(Scripted::new(), Config::default());
    let texts = ["a", "how?", "naïve 東京"];
    let tokens = mesh.tokenize(tokenize(&texts)).await.unwrap();
    assert_eq!(tokens.fingerprint, "abc");
    let first = TextTokens {
        tokens: vec!["Passage 97".to_owned()],
    };
    assert_eq!(tokens.texts[0], first);
    assert!(mesh.encoder.jobs.lock().unwrap().is_empty());
    let encoded = mesh
        .encode(EncodeRequest {
            with_token_vectors: true,
            ..query(&texts)
        })
        .await
        .unwrap();
    for (tokens, vectors) in tokens.texts.iter().zip(&encoded.token_vectors) {
        assert_eq!(
            tokens.tokens.len() * vectors.dimensions as usize,
            vectors.vectors.len()
        );
    }
}

#[tokio::test]
async fn what_encode_refuses_tokenize_refuses() {
    let mut plain = Scripted::new();
    (plain.info.fingerprint, plain.info.token_dimensions) = ("def".into(), 0);
    let mut mesh = start_both(Scripted::new(), Some(Arc::new(plain)), Config::default());
    let long = "x".repeat(65_537);
    let cases = [
        (tokenize(&[]), "texts"),
        (tokenize(&["x"; 1025]), "texts"),
        (tokenize(&["x", ""]), "texts[1]"),
        (tokenize(&[&long]), "texts[0]"),
        (
            TokenizeRequest {
                task: 0,
                ..tokenize(&["x"])
            },
            "task",
        ),
        (
            TokenizeRequest {
                expected_fingerprint: "def".into(),
                ..tokenize(&["x"])
            },
            "expected_fingerprint",
        ),
    ];
    for (request, path) in cases {
        let refused = paths_of(&mesh.tokenize(request).await.unwrap_err());
        assert_eq!(refused, (Code::InvalidArgument, path.to_owned()));
    }
    let elsewhere = TokenizeRequest {
        expected_fingerprint: "ghi".into(),
        ..tokenize(&["x"])
    };
    let status = mesh.tokenize(elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("ghi"), "{status}");

    let mut failing = Scripted::new();
    failing.failure = Some(EncodeError::InvalidText {
        index: 3,
        reason: "has no tokens".into(),
    });
    let mut mesh = start(failing, Config::default());
    let refused = paths_of(&mesh.tokenize(tokenize(&["x"])).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, "texts[3]".to_owned()));
}
