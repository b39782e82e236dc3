//! The model puts the passages of a window in order; windows slide from the last passages to the first.

use std::sync::Arc;

use futures::stream::{self, Stream};
use search_core::Deadline;

use crate::app::{Model, Passage, Scored, Texts};
use crate::completion::estimated_tokens;
use crate::endpoint::Answered;
use crate::error::Error;
use crate::prompt::{self, Inert, Prompt};
use crate::ranking::{self, Ranking};
use crate::usage::Usage;
use crate::windows::{Window, Windows, rank_logit};

/// An identifier with brackets and arrow.
const TOKENS_PER_ID: u64 = 8;
/// For a word that was not asked for.
const SPARE_TOKENS: u64 = 32;

/// A ranking on its way.
struct Progress {
    model: Arc<Model>,
    texts: Texts,
    deadline: Option<Deadline>,
    windows: Windows,
    /// Passages in the order that is known by now.
    order: Vec<usize>,
    /// Prompt tokens that each passage took.
    tokens: Vec<u64>,
    next_window: u32,
    some_window_was_ranked: bool,
    is_over: bool,
}

/// The passages whose rank is final, after each window.
pub(crate) fn rank(
    model: Arc<Model>,
    texts: Texts,
    deadline: Option<Deadline>,
) -> impl Stream<Item = Result<Scored, Error>> + Send {
    let passages = texts.passages.len();
    let progress = Progress {
        windows: windows(&model, passages),
        order: (0..passages).collect(),
        tokens: vec![0; passages],
        model,
        texts,
        deadline,
        next_window: 0,
        some_window_was_ranked: false,
        is_over: false,
    };
    stream::unfold(progress, async |mut progress| {
        let next = progress.next().await.transpose()?;
        progress.is_over = next.is_err();
        Some((next, progress))
    })
}

fn windows(model: &Model, passages: usize) -> Windows {
    Windows::new(passages, model.window, model.step)
}

/// More tokens than the call can take: of each window the prompt with the longest passages.
pub(crate) fn most_tokens(model: &Model, texts: &Texts) -> u64 {
    let mut longest: Vec<&Inert> = texts.passages.iter().collect();
    longest.sort_by_key(|passage| std::cmp::Reverse(passage.text.len()));
    let needed = windows(model, longest.len()).filter(|window| window.ranks.len() > 1);
    let tokens = needed.map(|window| {
        let count = window.ranks.len();
        let prompt = prompt::listwise(&texts.query, longest[..count].iter().copied());
        estimated_tokens(prompt.bytes()).saturating_add(
            model
                .template
                .answer_limit()
                .unwrap_or(answer_tokens(count)),
        )
    });
    tokens.fold(0, u64::saturating_add)
}

fn answer_tokens(count: usize) -> u64 {
    count as u64 * TOKENS_PER_ID + SPARE_TOKENS
}

impl Progress {
    async fn next(&mut self) -> Result<Option<Scored>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let Some(window) = self.windows.next() else {
            return Ok(None);
        };
        let mut scored = Scored::default();
        if window.ranks.len() == 1 {
            // There is nothing to compare.
            self.some_window_was_ranked = true;
        } else {
            let answered = self.ask(&window).await?;
            scored.take_times(&answered);
            scored.usage = self.put_in_order(&window, answered);
        }
        if window.ranks.start == 0 && !self.some_window_was_ranked {
            return Err(Error::NoUsableAnswer {
                wanted: "a ranking",
            });
        }
        scored.passages = window.finals.map(|rank| self.passage(rank)).collect();
        self.next_window += 1;
        Ok(Some(scored))
    }

    async fn ask(&self, window: &Window) -> Result<Answered, Error> {
        let prompt = self.prompt(window);
        let request = self
            .model
            .template
            .request(&prompt, answer_tokens(window.ranks.len()));
        self.model.endpoint.ask(request, self.deadline).await
    }

    fn prompt(&self, window: &Window) -> Prompt {
        let passages = self.order[window.ranks.clone()].iter();
        prompt::listwise(
            &self.texts.query,
            passages.map(|&passage| &self.texts.passages[passage]),
        )
    }

    /// An answer that says nothing leaves the order as it is.
    fn put_in_order(&mut self, window: &Window, answered: Answered) -> Usage {
        let count = window.ranks.len();
        self.share_tokens(window, answered.usage.tokens.prompt);
        match ranking::read(&answered.answer.text, count) {
            None => Usage {
                unusable_answers: 1,
                ..answered.usage
            },
            Some(Ranking { order, repairs }) => {
                self.model.endpoint.keep(&answered);
                self.some_window_was_ranked = true;
                let before = self.order[window.ranks.clone()].to_vec();
                let ranked = order.into_iter().map(|position| before[position]);
                self.order.splice(window.ranks.clone(), ranked);
                Usage {
                    repairs,
                    ..answered.usage
                }
            }
        }
    }

    /// The prompt's tokens are those of its passages, in equal shares; the sum is exact.
    fn share_tokens(&mut self, window: &Window, tokens: u64) {
        let count = window.ranks.len() as u64;
        for (position, &passage) in (0..).zip(&self.order[window.ranks.clone()]) {
            let share = tokens / count + u64::from(position < tokens % count);
            self.tokens[passage] = self.tokens[passage].saturating_add(share);
        }
    }

    fn passage(&self, rank: usize) -> Passage {
        let index = self.order[rank];
        Passage {
            index,
            logit: rank_logit(rank, self.order.len()),
            tokens: self.tokens[index],
            batch: self.next_window,
            is_truncated: self.texts.passages[index].is_truncated,
        }
    }
}
