//! Small collections whose right answers are plain.

use serde_json::{Map, Value, json};

/// A document as it stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Id.
    pub id: String,
    /// Title; may be empty.
    pub title: String,
    /// Text.
    pub text: String,
    /// Metadata.
    pub metadata: Map<String, Value>,
}

impl Document {
    /// A document without metadata.
    #[must_use]
    pub fn new(id: impl Into<String>, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            text: text.into(),
            metadata: Map::new(),
        }
    }

    /// The same with a metadata field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(field.to_owned(), value.into());
        self
    }

    /// The line of a BEIR file.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let line = json!({
            "_id": self.id,
            "title": self.title,
            "text": self.text,
            "metadata": self.metadata,
        });
        line.to_string().into_bytes()
    }
}

/// A query and the documents that answer it, best first.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// The query.
    pub query: &'static str,
    /// Ids of the documents that answer it.
    pub relevant: &'static [&'static str],
}

/// Eight animals, with metadata of every type.
#[must_use]
pub fn animals() -> Vec<Document> {
    let animal = |id: &str,
                  title: &str,
                  text: &str,
                  legs: i64,
                  weight_kg: f64,
                  tame: bool,
                  seen: &str,
                  food: &[&str]| {
        Document::new(id, title, text)
            .with("legs", legs)
            .with("weight_kg", weight_kg)
            .with("tame", tame)
            .with("seen", seen)
            .with("food", food.to_vec())
            .with("class", if legs == 2 { "bird" } else { "other" })
    };
    vec![
        animal(
            "cat",
            "Cat",
            "The cat sleeps on the mat near the warm stove.",
            4,
            4.5,
            true,
            "2020-01-15",
            &["fish", "mice"],
        ),
        animal(
            "dog",
            "Dog",
            "The dog guards the house and runs after the ball.",
            4,
            30.0,
            true,
            "2021-06-01",
            &["meat"],
        ),
        animal(
            "horse",
            "Horse",
            "A horse pulls the cart along the country road.",
            4,
            500.0,
            true,
            "2019-09-09",
            &["hay"],
        ),
        animal(
            "wolf",
            "Wolf",
            "Wolves hunt in packs through the winter forest.",
            4,
            45.0,
            false,
            "2018-12-24",
            &["meat"],
        ),
        animal(
            "owl",
            "Owl",
            "The owl hunts mice at night and turns its head.",
            2,
            1.5,
            false,
            "2022-03-03",
            &["mice"],
        ),
        animal(
            "hen",
            "Hen",
            "The hen lays an egg every morning in the straw.",
            2,
            2.5,
            true,
            "2022-03-04",
            &["grain"],
        ),
        animal(
            "spider",
            "Spider",
            "A spider weaves its web between two branches.",
            8,
            0.01,
            false,
            "2017-05-05",
            &["flies"],
        ),
        animal(
            "salmon",
            "Salmon",
            "The salmon swims up the river to its birthplace.",
            0,
            8.0,
            false,
            "2016-07-07",
            &["shrimps"],
        ),
    ]
}

/// Queries over [`animals`].
pub const ANIMAL_QUERIES: &[Judged] = &[
    Judged {
        query: "cat on the mat",
        relevant: &["cat"],
    },
    Judged {
        query: "guards the house",
        relevant: &["dog"],
    },
    Judged {
        query: "hunts mice at night",
        relevant: &["owl"],
    },
    Judged {
        query: "egg every morning",
        relevant: &["hen"],
    },
    Judged {
        query: "spider web",
        relevant: &["spider"],
    },
    Judged {
        query: "swims up the river",
        relevant: &["salmon"],
    },
];

/// Words of [`wordy`], the frequent ones first.
const WORDS: [&str; 24] = [
    "search", "index", "query", "shard", "segment", "vector", "score", "rank", "token", "passage",
    "merge", "commit", "replica", "budget", "latency", "recall", "fusion", "filter", "prefix",
    "rotation", "codes", "snapshot", "bundle", "deadline",
];

/// Texts of 5 to 25 words drawn with a fixed seed, where frequent words are frequent: enough to sit in many segments.
#[must_use]
pub fn wordy(count: usize) -> Vec<Document> {
    let mut state = 0x5eed_u64;
    let mut random = move |below: usize| {
        // Knuth's MMIX constants; the upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut words = move |count: usize| {
        // The smaller of two draws: word 0 comes 47 times as often as word 23.
        let drawn = (0..count).map(|_| WORDS[random(WORDS.len()).min(random(WORDS.len()))]);
        drawn.collect::<Vec<_>>().join(" ")
    };
    let document = |number: usize| {
        let text = words(5 + number % 21);
        Document::new(format!("doc-{number:05}"), words(2), text).with("number", number as i64)
    };
    (0..count).map(document).collect()
}

/// Documents that score alike for the query `same words`: only their ids can order them.
#[must_use]
pub fn ties(count: usize) -> Vec<Document> {
    // Ids in an order that is not that of the numbers.
    let id = |number: usize| format!("tie-{:05}", number * 7919 % 99_991);
    (0..count)
        .map(|number| Document::new(id(number), "", "same words in every text"))
        .collect()
}
