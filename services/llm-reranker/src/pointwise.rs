//! The model says about each passage alone whether it answers the query, and how sure it is.

use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use search_core::Deadline;

use crate::app::{Model, Passage, Scored, Texts};
use crate::completion::Request;
use crate::error::Error;
use crate::prompt::{self, Inert};
use crate::usage::Usage;
use crate::yes_no;

/// "Yes" or "No".
const ANSWER_TOKENS: u64 = 1;

/// The passages in the caller's order, each as soon as it and those before it are scored. One about which the model says nothing that
/// can be used is left out; where it says nothing about any, that is an error.
pub(crate) fn judge(
    model: Arc<Model>,
    texts: Texts,
    deadline: Option<Deadline>,
) -> impl Stream<Item = Result<Scored, Error>> + Send {
    let passages = texts.passages.len();
    let at_once = model.concurrent_requests;
    let texts = Arc::new(texts);
    let ask = move |index| {
        let (model, texts) = (Arc::clone(&model), Arc::clone(&texts));
        async move { judge_one(&model, &texts, index, deadline).await }
    };
    let judged = stream::iter(0..passages).map(ask).buffered(at_once);
    judged.scan(0, move |unusable, judged| {
        *unusable += judged
            .as_ref()
            .map_or(0, |scored| scored.usage.unusable_answers as usize);
        let is_useless = *unusable == passages;
        let wanted = "yes or no with its probability";
        let judged = if is_useless {
            Err(Error::NoUsableAnswer { wanted })
        } else {
            judged
        };
        std::future::ready(Some(judged))
    })
}

/// More tokens than the call can take.
pub(crate) fn most_tokens(model: &Model, texts: &Texts) -> u64 {
    let requests = texts
        .passages
        .iter()
        .map(|passage| request(model, &texts.query, passage));
    requests.fold(0, |sum, request| {
        sum.saturating_add(request.estimate.total())
    })
}

fn request(model: &Model, query: &str, passage: &Inert) -> Request {
    model
        .template
        .request(&prompt::pointwise(query, passage), ANSWER_TOKENS)
}

async fn judge_one(
    model: &Model,
    texts: &Texts,
    index: usize,
    deadline: Option<Deadline>,
) -> Result<Scored, Error> {
    let passage = &texts.passages[index];
    let answered = model
        .endpoint
        .ask(request(model, &texts.query, passage), deadline)
        .await?;
    let mut scored = Scored::default();
    scored.take_times(&answered);
    scored.usage = answered.usage;
    match yes_no::log_odds(&answered.answer.first_token) {
        None => {
            scored.usage = Usage {
                unusable_answers: 1,
                ..answered.usage
            }
        }
        Some(logit) => {
            model.endpoint.keep(&answered);
            scored.passages.push(Passage {
                index,
                logit,
                tokens: answered.usage.tokens.prompt,
                batch: index as u32,
                is_truncated: passage.is_truncated,
            });
        }
    }
    Ok(scored)
}
