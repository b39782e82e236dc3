//! The tokens of the query and of passages that are shown: those that vectors stand for, as the vocabulary of the bundle writes them that
//! made these.
//!
//! A place in a passage is one among the tokens of title and text as they were indexed. Of a title of half a passage or more only the
//! beginning was, and where that ended is not known here: the tokens of such a passage are not told.

use crate::clients::{Passage, Task};
use crate::documents::readable;
use crate::error::SearchError;
use crate::funnel::{Run, within};
use futures::future::try_join_all;
use search_core::Deadline;

/// Longest text; an encoder's limit, and many times what it reads.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Texts of one call; the contract's limit.
const CALL_TEXTS: usize = 1024;

/// The tokens that have vectors.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) query: Vec<String>,
    /// Of each passage; none where they may not be those that were indexed.
    pub(crate) passages: Vec<Option<Vec<String>>>,
}

/// A title, and whose it is.
type Title<'p> = (usize, &'p str);

impl Run<'_> {
    /// Asks an encoder that has the bundle of this fingerprint. The passages have text.
    pub(crate) async fn tokens(
        self,
        fingerprint: &str,
        passages: &[&Passage],
        deadline: Option<Deadline>,
    ) -> Result<Tokens, SearchError> {
        let tokenize = |texts, task| self.tokenize(fingerprint, texts, task, deadline);
        let query = vec![self.plan.request.parsed.plain_text()];
        let titles = long_titles(passages, self.placement.documents.title_tokens);
        let texts = passages
            .iter()
            .map(|passage| readable(passage, MAX_TEXT_BYTES).unwrap_or_default());
        let texts = texts.chain(titles.iter().map(|(_, title)| cut(title)));
        let (query, mut of_passages) = futures::try_join!(
            tokenize(query, Task::Query),
            tokenize(texts.collect(), Task::Passage),
        )?;
        let of_titles = of_passages.split_off(passages.len());
        Ok(Tokens {
            query: query.concat(),
            passages: self.without_cut_titles(of_passages, &titles, &of_titles),
        })
    }

    /// Leaves out the tokens of passages whose title may not have been read to its end.
    fn without_cut_titles(
        self,
        passages: Vec<Vec<String>>,
        titles: &[Title<'_>],
        of_titles: &[Vec<String>],
    ) -> Vec<Option<Vec<String>>> {
        let mut known: Vec<_> = passages.into_iter().map(Some).collect();
        for ((passage, title), tokens) in titles.iter().zip(of_titles) {
            let read = self.placement.documents.title_tokens as usize;
            if most_tokens(title, tokens) > read {
                known[*passage] = None;
            }
        }
        known
    }

    async fn tokenize(
        self,
        fingerprint: &str,
        texts: Vec<String>,
        task: Task,
        deadline: Option<Deadline>,
    ) -> Result<Vec<Vec<String>>, SearchError> {
        let encoders = self.mesh.encoders_of(fingerprint);
        let encoders = encoders.unwrap_or_else(|| self.mesh.encoder.everyone());
        let call = |texts: Vec<String>| {
            let (encoder, encoders) = (&self.mesh.encoder, &encoders);
            async move {
                let tokenize = encoder.call(encoders, |client| {
                    client.tokenize(texts.clone(), task, fingerprint, deadline)
                });
                tokenize.await
            }
        };
        let calls = texts.chunks(CALL_TEXTS).map(|part| call(part.to_vec()));
        let parts = within(deadline, async { Ok(try_join_all(calls).await?) }).await?;
        Ok(parts.concat())
    }
}

/// The titles that may have more tokens: none is shorter than a byte.
fn long_titles<'p>(passages: &[&'p Passage], tokens: u32) -> Vec<Title<'p>> {
    let titles = passages.iter().map(|passage| passage.title.trim());
    let long = titles
        .enumerate()
        .filter(|(_, title)| title.len() > tokens as usize);
    long.collect()
}

fn cut(title: &str) -> String {
    title[..title.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// How many tokens a title has at most of which these have vectors: a bundle may give none of what is no word.
fn most_tokens(title: &str, tokens: &[String]) -> usize {
    let is_of_word = |char: &char| char.is_alphanumeric() || char.is_whitespace();
    let left_out = title.chars().filter(|char| !is_of_word(char)).count();
    tokens.len() + left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_word_counts_whether_it_has_a_vector_or_not() {
        let tokens = ["[CLS]", "sea", "level", "[SEP]"].map(str::to_owned);
        assert_eq!(most_tokens("sea level", &tokens), 4);
        assert_eq!(most_tokens("Sea-level: …", &tokens), 7);
    }

    #[test]
    fn short_titles_need_no_tokens() {
        let titled = |title: &str| Passage {
            title: title.to_owned(),
            ..Passage::default()
        };
        let passages = [titled(""), titled("  ninechars "), titled("ten chars!")];
        let passages: Vec<&Passage> = passages.iter().collect();
        assert_eq!(long_titles(&passages, 9), [(2, "ten chars!")]);
        assert_eq!(
            long_titles(&passages, 0),
            [(1, "ninechars"), (2, "ten chars!")]
        );
    }
}
