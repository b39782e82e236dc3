//! An encoder without a model: each word is a fixed random direction, a text the sum of its words. Texts that share words
//! are near, equal texts equal, and every machine computes the same bits.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use inference::{BoxFuture, EncodeError, EncodeJob, Encoded, EncoderInfo, Task, TextEncoder};

/// Words that it reads of one text.
const MAX_TOKENS: usize = 256;

/// A hashing bag-of-words encoder.
#[derive(Debug, Clone)]
pub struct HashEncoder {
    info: EncoderInfo,
    /// Words, and the words that it takes them for.
    synonyms: HashMap<String, String>,
}

impl HashEncoder {
    /// An encoder of this width, 2 or more.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        Self::named("hash", dimensions)
    }

    /// An encoder that calls itself otherwise, and so has another fingerprint.
    #[must_use]
    pub fn named(name: &str, dimensions: usize) -> Self {
        assert!(dimensions >= 2, "one dimension holds no direction");
        let info = EncoderInfo {
            name: name.to_owned(),
            fingerprint: format!("{name}-{dimensions}"),
            dimensions,
            token_dimensions: dimensions,
            max_tokens: MAX_TOKENS,
            matryoshka_dimensions: Vec::new(),
        };
        Self {
            info,
            synonyms: HashMap::new(),
        }
    }

    /// The same, that takes the first word of each pair for the second: it knows what other encoders do not.
    #[must_use]
    pub fn with_synonyms(mut self, pairs: &[(&str, &str)]) -> Self {
        let owned = pairs
            .iter()
            .map(|(word, known)| ((*word).to_owned(), (*known).to_owned()));
        self.synonyms.extend(owned);
        self
    }

    /// The same, trained for these widths by its own account.
    #[must_use]
    pub fn with_matryoshka_dimensions(mut self, widths: &[usize]) -> Self {
        self.info.matryoshka_dimensions = widths.to_vec();
        self
    }

    /// The vector of one text.
    #[must_use]
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut sum = vec![0.0; self.info.dimensions];
        for word in words(text).take(MAX_TOKENS) {
            let spoken = spoken(word);
            add_word(&mut sum, self.synonyms.get(&spoken).unwrap_or(&spoken));
        }
        unit(sum)
    }

    fn encode_now(&self, job: &EncodeJob) -> Result<Encoded, EncodeError> {
        let empty = job.texts.iter().position(|text| text.trim().is_empty());
        if let Some(index) = empty {
            let reason = "is empty".to_owned();
            return Err(EncodeError::InvalidText { index, reason });
        }
        let counts = job.texts.iter().map(|text| words(text).count());
        let too_long = counts.clone().filter(|count| *count > MAX_TOKENS);
        Ok(Encoded {
            vectors: job
                .texts
                .iter()
                .flat_map(|text| self.vector(text))
                .collect(),
            token_vectors: job
                .with_token_vectors
                .then(|| self.token_vectors(&job.texts)),
            truncated_texts: too_long.count().try_into().unwrap_or(u32::MAX),
            tokens: counts.map(|count| count.min(MAX_TOKENS) as u32).collect(),
            queue: Duration::ZERO,
            compute: Duration::from_micros(1),
            model: Duration::from_micros(1),
            threads: 1,
        })
    }

    fn token_vectors(&self, texts: &[String]) -> Vec<Vec<f32>> {
        let of_text = |text: &String| {
            words(text)
                .take(MAX_TOKENS)
                .flat_map(|word| self.vector(word))
                .collect()
        };
        texts.iter().map(of_text).collect()
    }
}

impl TextEncoder for HashEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>, EncodeError> {
        let start_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
        let span = |word: &str| start_of(word)..start_of(word) + word.len();
        Ok(words(text).map(span).collect())
    }

    fn tokens(
        &self,
        texts: Vec<String>,
        _: Task,
    ) -> BoxFuture<Result<Vec<Vec<String>>, EncodeError>> {
        let of_text = |text: &String| words(text).take(MAX_TOKENS).map(str::to_owned).collect();
        let tokens = texts.iter().map(of_text).collect();
        Box::pin(std::future::ready(Ok(tokens)))
    }

    fn encode(&self, job: EncodeJob) -> BoxFuture<Result<Encoded, EncodeError>> {
        Box::pin(std::future::ready(self.encode_now(&job)))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

/// Punctuation around a word and its case say nothing.
fn spoken(word: &str) -> String {
    let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric());
    let spoken = if bare.is_empty() { word } else { bare };
    spoken.to_lowercase()
}

fn add_word(sum: &mut [f32], spoken: &str) {
    let mut state = fnv1a(spoken.as_bytes());
    for place in sum {
        *place += signed_unit(splitmix(&mut state));
    }
}

/// In [-1, 1), with 24 bits.
fn signed_unit(random: u64) -> f32 {
    let bits = (random >> 40) as f32;
    bits / 8_388_608.0 - 1.0
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt();
    if norm < 1e-6 {
        // No words, or words that cancel out: any direction is as good.
        vector[0] = 1.0;
        return vector;
    }
    for value in &mut vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    vector
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use inference::{Priority, Task};
    use search_core::Criticality;

    use super::*;

    fn cosine(left: &[f32], right: &[f32]) -> f32 {
        left.iter()
            .zip(right)
            .map(|(left, right)| left * right)
            .sum()
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let encoder = HashEncoder::new(64);
        let query = encoder.vector("a cat on the mat");
        let near = cosine(&query, &encoder.vector("The cat; on a MAT!"));
        let far = cosine(&query, &encoder.vector("interest rates rose again"));
        assert!((near - 1.0).abs() < 1e-6, "{near}");
        assert!(far.abs() < 0.5, "{far}");
    }

    #[test]
    fn synonyms_are_near_to_who_knows_them() {
        let knowing = HashEncoder::new(64).with_synonyms(&[("feline", "cat")]);
        assert_eq!(knowing.vector("a Feline."), knowing.vector("a cat"));
        assert_ne!(
            HashEncoder::new(64).vector("feline"),
            HashEncoder::new(64).vector("cat")
        );
    }

    #[test]
    fn spans_are_the_words() {
        let text = "  größer als\tdrei ";
        let spans = HashEncoder::new(64).token_spans(text).unwrap();
        let words: Vec<&str> = spans.into_iter().map(|span| &text[span]).collect();
        assert_eq!(words, ["größer", "als", "drei"]);
    }

    #[tokio::test]
    async fn a_job_is_encoded_in_order_and_to_unit_length() {
        let encoder = HashEncoder::new(8);
        let long = "word ".repeat(300);
        let job = EncodeJob {
            texts: vec!["one two".to_owned(), long],
            task: Task::Passage,
            with_token_vectors: true,
            priority: Priority::Bulk,
            criticality: Criticality::Critical,
            deadline: None,
        };
        let encoded = encoder.encode(job).await.unwrap();
        assert_eq!(encoded.tokens, [2, 256]);
        assert_eq!(encoded.truncated_texts, 1);
        assert_eq!(encoded.vectors[..8], encoder.vector("one two"));
        assert_eq!(encoded.token_vectors.unwrap()[0].len(), 16);
        let norm = cosine(&encoded.vectors[8..], &encoded.vectors[8..]);
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
}
