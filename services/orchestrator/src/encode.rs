//! The query as vectors: by one call to an encoder for each bundle that the index was built with.
//!
//! The dense leg's call brings the vectors of the query's tokens along, where a later stage wants them of the same bundle. What such a
//! stage needs of another bundle, or where nothing is searched by vectors, is encoded apart, while the retrievers search.

use crate::clients::{Encoded, QueryTokens, Wish};
use crate::error::{CallError, SearchError};
use crate::funnel::{Run, StageWatch, within};
use crate::plan::Leg;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Shared, join_all, select};
use search_core::{Deadline, ErrorKind, StageReason, StageReport, StageStatus};
use std::pin::pin;
use std::sync::Arc;
use tracing::Instrument;

/// The call of the dense leg, in reports.
pub(crate) const ENCODE_STAGE: &str = "encode";

/// An encoded query, or why there is none.
pub(crate) type Outcome = Result<Arc<Encoded>, StageReason>;

/// Where the query of a stage comes from that scores by vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QuerySource<'a> {
    /// The dense leg's call brings it along.
    Retrieval,
    /// A call of its own.
    Apart(Encoding<'a>),
}

/// What a call is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding<'a> {
    /// Its name in reports.
    pub(crate) stage: &'static str,
    /// Fingerprint of the bundle that the index was built with.
    pub(crate) index: &'a str,
    pub(crate) with_tokens: bool,
}

/// A call that runs beside the retrieval. Clones wait for the same one.
#[derive(Clone)]
pub(crate) struct EncodingBeside<'a> {
    watch: StageWatch,
    ended: Shared<BoxFuture<'a, (StageReport, Outcome)>>,
}

impl EncodingBeside<'_> {
    /// The report where nobody waits for it, since what it is for is not needed.
    pub(crate) fn left_out(self, reason: StageReason) -> StageReport {
        let mut watch = self.watch;
        watch.lessen(StageStatus::Skipped, reason);
        watch.end()
    }

    /// The report and what came of it by the deadline.
    pub(crate) async fn by(self, deadline: Option<Deadline>) -> (StageReport, Outcome) {
        let ended = within(deadline, async { Ok(self.ended.await) }).await;
        ended.unwrap_or_else(|_| {
            let mut abandoned = self.watch;
            abandoned.lessen(StageStatus::Failed, StageReason::Deadline);
            (abandoned.end(), Err(StageReason::Deadline))
        })
    }
}

/// The main work's result. The encodings run along, and are not waited for.
pub(crate) async fn beside<T>(
    encodings: impl IntoIterator<Item = EncodingBeside<'_>>,
    main: impl Future<Output = T>,
) -> T {
    let encodings = join_all(encodings.into_iter().map(|encoding| encoding.ended));
    match select(pin!(main), encodings).await {
        Either::Left((output, _)) => output,
        Either::Right((_, main)) => main.await,
    }
}

/// The vectors of the query's tokens, or why there are none.
pub(crate) fn tokens_of(encoded: &Encoded) -> Result<&QueryTokens, StageReason> {
    match &encoded.tokens {
        Some(Ok(tokens)) => Ok(tokens),
        Some(Err(error)) => Err(SearchError::from(error.clone()).reason()),
        None => Err(StageReason::Fault),
    }
}

impl<'a> Run<'a> {
    /// Whether vectors of this bundle are made for the dense leg anyway.
    pub(crate) fn is_encoded_for_retrieval(self, index: &str) -> bool {
        let searched = self.placement.dense.holding();
        let of_bundle = searched.is_ok_and(|holding| holding.fingerprints.encoder == index);
        self.plan.has(Leg::Dense) && of_bundle
    }

    /// What the dense leg's call is to bring.
    pub(crate) fn encoding_for_retrieval(self, index: &'a str) -> Encoding<'a> {
        let comes_along = |stage| matches!(self.query_source(stage), Ok(QuerySource::Retrieval));
        Encoding {
            stage: ENCODE_STAGE,
            index,
            with_tokens: self.runs_head() && self.plan.pipeline.vector_stages().any(comes_along),
        }
    }

    /// A call that is ready to run beside the retrieval.
    pub(crate) fn encode_beside(self, encoding: Encoding<'a>) -> EncodingBeside<'a> {
        let ended = async move {
            let (report, encoded) = self.encode(encoding, self.end_of_stages()).await;
            let stage = encoding.stage;
            let warn = |error: &SearchError| tracing::warn!(stage, %error, "answering without what it is for");
            let outcome = encoded.inspect_err(warn).map_err(|error| error.reason());
            (report, outcome.map(Arc::new))
        };
        EncodingBeside {
            watch: self.begin(encoding.stage),
            ended: ended.boxed().shared(),
        }
    }

    /// Encodes the query with the bundle that the index was built with.
    pub(crate) async fn encode(
        self,
        encoding: Encoding<'_>,
        deadline: Option<Deadline>,
    ) -> (StageReport, Result<Encoded, SearchError>) {
        let mut watch = self.begin(encoding.stage);
        let encoded = self
            .call_encoder(encoding, deadline)
            .instrument(tracing::info_span!("encode", stage = encoding.stage))
            .await
            .map_err(SearchError::from);
        let encoded = encoded.and_then(|encoded| self.check_model(encoded, encoding.index));
        match &encoded {
            Ok(encoded) => watch.time(encoded.timing),
            Err(error) => watch.lessen(StageStatus::Failed, error.reason()),
        }
        let tokens = encoded.as_ref().ok().and_then(|it| it.tokens.as_ref());
        if let Some(Err(error)) = tokens {
            tracing::warn!(%error, "encoded without the vectors of tokens");
        }
        (watch.end(), encoded)
    }

    /// An encoder that refuses to give the tokens' vectors is asked for the other one, where it is searched by: that needs no more.
    async fn call_encoder(
        self,
        encoding: Encoding<'_>,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, CallError> {
        let can_do_without_tokens = encoding.with_tokens && encoding.stage == ENCODE_STAGE;
        match self.call_for(encoding, deadline).await {
            Err(error) if can_do_without_tokens && error.kind == ErrorKind::InvalidArgument => {
                let without = Encoding {
                    with_tokens: false,
                    ..encoding
                };
                let encoded = self.call_for(without, deadline).await?;
                Ok(Encoded {
                    tokens: Some(Err(error)),
                    ..encoded
                })
            }
            encoded => encoded,
        }
    }

    async fn call_for(
        self,
        encoding: Encoding<'_>,
        deadline: Option<Deadline>,
    ) -> Result<Encoded, CallError> {
        let (encoders, fingerprint) = match self.mesh.encoders_of(encoding.index) {
            Some(encoders) => (encoders, encoding.index),
            None => (self.mesh.encoder.everyone(), ""),
        };
        let query = self.plan.request.parsed.plain_text();
        let wish = Wish {
            query: &query,
            fingerprint,
            with_tokens: encoding.with_tokens,
        };
        let encoder = &self.mesh.encoder;
        encoder
            .call(&encoders, |client| client.encode(wish, deadline))
            .await
    }

    fn check_model(self, encoded: Encoded, index: &str) -> Result<Encoded, SearchError> {
        if encoded.fingerprint == index {
            return Ok(encoded);
        }
        Err(SearchError::ModelMismatch {
            collection: self.placement.snapshot.collection.clone(),
            index: index.to_owned(),
            encoder: encoded.fingerprint,
        })
    }
}
