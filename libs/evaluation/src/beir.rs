//! Reads queries and judgements in BEIR's layout: JSONL with `_id` and `text`, TSV with query id, document id, grade.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

/// Grade of each judged document of one query; documents that are not there have grade 0.
pub type Judgements = HashMap<String, u32>;
/// Judgements of each query.
pub type Qrels = HashMap<String, Judgements>;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// One query.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// Query id.
    #[serde(rename = "_id")]
    pub id: String,
    /// What is asked.
    pub text: String,
}

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
pub enum BeirError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("{}:{line}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads queries in the file's order. An id that comes twice is an error.
pub fn read_queries(file: &Path) -> Result<Vec<Query>, BeirError> {
    let mut first_lines: HashMap<String, usize> = HashMap::new();
    let mut queries = Vec::new();
    for_each_line(file, |number, line| {
        let query: Query = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if let Some(first) = first_lines.insert(query.id.clone(), number) {
            return Err(format!(
                "_id: {:?} stands in line {first} already",
                query.id
            ));
        }
        queries.push(query);
        Ok(())
    })?;
    Ok(queries)
}

/// Reads judgements. A first line whose grade is no number is a header. Queries without a positive grade are left
/// out, as trec_eval does. TREC's four columns (query, iteration, document, grade) are understood too.
pub fn read_qrels(file: &Path) -> Result<Qrels, BeirError> {
    let mut qrels = Qrels::new();
    for_each_line(file, |number, line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (query, document, grade) = match fields[..] {
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            _ => {
                return Err(format!(
                    "{} columns; query id, document id and grade are expected",
                    fields.len()
                ));
            }
        };
        match grade.parse::<i64>() {
            // Negative grades (spam, in some TREC tracks) count as not relevant.
            Ok(grade) => {
                let grade = u32::try_from(grade.max(0))
                    .map_err(|_| format!("grade {grade} is too large"))?;
                qrels
                    .entry(query.to_owned())
                    .or_default()
                    .insert(document.to_owned(), grade);
            }
            Err(_) if number == 1 => {}
            Err(_) => return Err(format!("grade {grade:?} is no whole number")),
        }
        Ok(())
    })?;
    qrels.retain(|_, judged| judged.values().any(|grade| *grade > 0));
    Ok(qrels)
}

/// Calls `each` with every line that is not blank; its error becomes one with file and line.
fn for_each_line(
    file: &Path,
    mut each: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), BeirError> {
    let unreadable = |source| BeirError::Unreadable {
        file: file.to_owned(),
        source,
    };
    for (index, line) in open(file).map_err(unreadable)?.lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if !line.trim().is_empty() {
            let invalid = |reason| BeirError::Invalid {
                file: file.to_owned(),
                line: index + 1,
                reason,
            };
            each(index + 1, &line).map_err(invalid)?;
        }
    }
    Ok(())
}

fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut reader = BufReader::new(File::open(file)?);
    if reader.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(reader))));
    }
    Ok(Box::new(reader))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn queries_are_read_in_order() {
        let file = file(
            "{\"_id\":\"b\",\"text\":\"two\",\"metadata\":{}}\n\n{\"_id\":\"a\",\"text\":\"one\"}\n",
        );
        let ids: Vec<String> = read_queries(file.path())
            .unwrap()
            .into_iter()
            .map(|query| query.id)
            .collect();
        assert_eq!(ids, ["b", "a"]);
    }

    #[test]
    fn mistakes_in_queries_name_file_and_line() {
        for (content, expected) in [
            (
                "{\"_id\":\"a\",\"text\":\"x\"}\n{\"_id\":\"a\",\"text\":\"y\"}",
                ":2: _id: \"a\" stands in line 1",
            ),
            ("{\"_id\":\"a\"}", ":1: missing field `text`"),
            ("\n{broken", ":2: "),
        ] {
            let error = read_queries(file(content).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn qrels_with_and_without_header_in_both_layouts() {
        let beir = file("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t0\n");
        let trec = file("q1 0 d1 2\nq1 0 d2 -1\n");
        let from_beir = read_qrels(beir.path()).unwrap();
        assert_eq!(
            from_beir.len(),
            1,
            "a query without a relevant document is left out"
        );
        assert_eq!(from_beir, read_qrels(trec.path()).unwrap());
        assert_eq!(from_beir["q1"]["d1"], 2);
    }

    #[test]
    fn mistakes_in_qrels_name_file_and_line() {
        for (content, expected) in [
            ("q1\td1\t1\nq1\td1", ":2: 2 columns"),
            ("q1\td1\t1\nq1\td1\tx", ":2: grade \"x\""),
        ] {
            let error = read_qrels(file(content).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
