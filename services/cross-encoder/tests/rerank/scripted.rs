//! A reader and models that do what a test says, and the service over them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cross_encoder::{App, Config, RawConfig};
use inference::{CrossEncoderInfo, Pair, PairLogits, ReadPairs, ScoreError, ScorePairs};
use search_proto::rerank::reranker_service_client::RerankerServiceClient;
use search_proto::rerank::{RerankRequest, RerankResponse};
use service_kit::status::fields_of;
use service_kit::{MAX_MESSAGE_BYTES, MeshChannel, Problems, ServerBuilder, ServerLimits};
use tonic::{Code, Status, Streaming};

/// A token for each byte, the query's too; what is beyond 500 goes into the next window. Some words are special.
pub(crate) struct Reader(CrossEncoderInfo);

impl Reader {
    fn new() -> Self {
        Self(CrossEncoderInfo {
            name: "scripted".into(),
            fingerprint: "abc".into(),
            max_tokens: 500,
            max_query_tokens: 100,
        })
    }
}

impl ReadPairs for Reader {
    fn info(&self) -> &CrossEncoderInfo {
        &self.0
    }

    fn read(
        &self,
        query: &str,
        passages: &[String],
        max_windows: usize,
    ) -> Result<Vec<Vec<Pair>>, ScoreError> {
        assert!(query != "panic", "on purpose");
        if query.trim().is_empty() {
            let reason = "has no tokens".into();
            return Err(ScoreError::InvalidQuery { reason });
        }
        passages
            .iter()
            .enumerate()
            .map(|(index, passage)| windows(query, index, passage, max_windows))
            .collect()
    }
}

fn windows(
    query: &str,
    index: usize,
    passage: &str,
    max_windows: usize,
) -> Result<Vec<Pair>, ScoreError> {
    if passage == "unreadable" {
        let reason = "is unreadable".into();
        return Err(ScoreError::InvalidPassage { index, reason });
    }
    let room = 500 - query.len();
    let truncated = passage.len() > room * max_windows;
    let chunks = passage.as_bytes().chunks(room).take(max_windows);
    Ok(chunks
        .map(|chunk| pair(query.as_bytes(), chunk, truncated))
        .collect())
}

fn pair(query: &[u8], window: &[u8], truncated: bool) -> Pair {
    let ids: Vec<u32> = [query, window]
        .concat()
        .into_iter()
        .map(u32::from)
        .collect();
    let segment_ids = vec![0; ids.len()];
    Pair::new(ids, segment_ids, truncated)
}

/// What a test says to a model, and hears from it.
pub(crate) struct Script {
    /// The lengths of each batch, when it begins.
    pub(crate) begun: Mutex<Receiver<Vec<usize>>>,
    /// Lets a batch go.
    pub(crate) gate: Sender<()>,
    /// Every run fails, checks too.
    pub(crate) broken: Arc<AtomicBool>,
}

/// The logit is the pair's last token; `~` is NaN, `#` fails, `@` panics.
struct Model {
    begun: Sender<Vec<usize>>,
    /// None: computes at once.
    gate: Option<Receiver<()>>,
    broken: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
struct OutOfMemory;

impl ScorePairs for Model {
    fn score(&mut self, pairs: &[&Pair]) -> Result<PairLogits, ScoreError> {
        // A test that has ended listens no more.
        let _ = self
            .begun
            .send(pairs.iter().map(|pair| pair.tokens()).collect());
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        let last = |pair: &&Pair| pair.ids().last().copied().unwrap_or(0);
        assert!(
            !pairs.iter().any(|pair| last(pair) == u32::from(b'@')),
            "on purpose"
        );
        if pairs.iter().any(|pair| last(pair) == u32::from(b'#')) {
            return Err(ScoreError::Model(Arc::new(OutOfMemory)));
        }
        self.check()?;
        let logit = |pair: &&Pair| match last(pair) {
            126 => f32::NAN,
            token => token as f32 - 100.0,
        };
        Ok(PairLogits {
            logits: pairs.iter().map(logit).collect(),
            model_time: Duration::from_micros(3),
        })
    }

    fn check(&mut self) -> Result<(), ScoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(ScoreError::Model(Arc::new(OutOfMemory)));
        }
        Ok(())
    }
}

/// The service with one compute thread.
pub(crate) struct Service {
    pub(crate) app: Arc<App>,
    pub(crate) client: RerankerServiceClient<MeshChannel>,
    pub(crate) channel: MeshChannel,
    pub(crate) script: Script,
}

impl Service {
    /// Computes at once.
    pub(crate) fn free() -> Self {
        Self::start(false, Config::default())
    }

    /// Computes a batch when the gate lets it.
    pub(crate) fn gated() -> Self {
        Self::start(true, Config::default())
    }

    /// The same, with room for so many passages.
    pub(crate) fn with_room(queue_passages: usize) -> Self {
        let raw = RawConfig {
            queue_passages,
            ..RawConfig::default()
        };
        Self::start(
            true,
            raw.validate("cross_encoder", &mut Problems::default()),
        )
    }

    fn start(is_gated: bool, config: Config) -> Self {
        let ((begun_by, begun), (gate, gated)) = (channel(), channel());
        let broken: Arc<AtomicBool> = Arc::default();
        let model = Model {
            begun: begun_by,
            gate: is_gated.then_some(gated),
            broken: Arc::clone(&broken),
        };
        let app = App::start_with(&config, Arc::new(Reader::new()), vec![Box::new(model)]);
        let mut builder = ServerBuilder::new(ServerLimits::default());
        app.add_to(&mut builder);
        let server = builder.build(search_proto::FILE_DESCRIPTOR_SET).unwrap();
        let (listener, channel) = service_kit::in_process("cross-encoder");
        tokio::spawn(server.serve_in_process(listener, std::future::pending()));
        Self {
            app,
            client: RerankerServiceClient::new(channel.clone())
                .max_encoding_message_size(4 * MAX_MESSAGE_BYTES),
            channel,
            script: Script {
                begun: Mutex::new(begun),
                gate,
                broken,
            },
        }
    }

    pub(crate) async fn rerank(
        &mut self,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        Ok(self.client.rerank(request).await?.into_inner())
    }

    pub(crate) async fn stream(&mut self, request: RerankRequest) -> Streaming<RerankResponse> {
        self.client
            .rerank_stream(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Code and paths of a refusal.
    pub(crate) async fn refused(&mut self, request: RerankRequest) -> (Code, String) {
        let status = self.rerank(request).await.unwrap_err();
        let paths: Vec<String> = fields_of(&status)
            .into_iter()
            .map(|field| field.path)
            .collect();
        (status.code(), paths.join(","))
    }

    /// Lets the next batch go, once it has begun, and tells its lengths.
    pub(crate) async fn let_go(&self) -> Vec<usize> {
        let lengths = self.begun().await;
        self.script.gate.send(()).unwrap();
        lengths
    }

    /// Lets all batches go from now on.
    pub(crate) fn open(&mut self) {
        self.script.gate = channel().0;
    }

    /// The lengths of the next batch, once it has begun. The runtime is never idle meanwhile: a paused clock stands still.
    pub(crate) async fn begun(&self) -> Vec<usize> {
        loop {
            if let Ok(lengths) = self.script.begun.lock().unwrap().try_recv() {
                return lengths;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for what another thread does. As above.
    pub(crate) async fn until(&self, holds: impl Fn(&App) -> bool) {
        while !holds(&self.app) {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Service {
    /// A thread that waits at the gate goes on, so that the service can end.
    fn drop(&mut self) {
        self.open();
    }
}

/// A query of one token.
pub(crate) fn request(passages: &[&str]) -> RerankRequest {
    RerankRequest {
        query: "q".into(),
        passages: passages.iter().map(|&passage| passage.to_owned()).collect(),
        ..RerankRequest::default()
    }
}

/// A passage of windows of 500 tokens, each with this last one.
pub(crate) fn in_windows(last: &[char], max_windows: u32) -> RerankRequest {
    let window = |last| format!("{}{last}", "a".repeat(498));
    let passage: String = last.iter().map(window).collect();
    RerankRequest {
        max_windows,
        ..request(&[&passage])
    }
}

/// Passages whose pairs have so many tokens.
pub(crate) fn long(tokens: &[usize]) -> RerankRequest {
    let passages: Vec<String> = tokens
        .iter()
        .map(|&tokens| "a".repeat(tokens - 1))
        .collect();
    request(&passages.iter().map(String::as_str).collect::<Vec<_>>())
}
