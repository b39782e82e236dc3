//! Where lines come from: JSONL files, plain or gzip, cut into batches that keep their line numbers.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The longest line that is read: a document of four million characters is a file that was never meant to be one line.
pub const MAX_LINE_BYTES: usize = 4 << 20;
/// Lines of a batch at most; also the bound on one gRPC message.
pub const MAX_BATCH_LINES: usize = 4096;
/// A batch is closed when it holds this much: far below the message limit even when its last line is a long one.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait between the reading thread and the run.
const BATCHES_AHEAD: usize = 2;
const READ_BUFFER_BYTES: usize = 1 << 18;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Consecutive lines of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineBatch {
    /// File name, for messages.
    pub file: Arc<str>,
    /// Number of the first line, from 1.
    pub first_line: u64,
    /// The lines without their ends. One that is longer than [`MAX_LINE_BYTES`] is cut just beyond it.
    pub lines: Vec<Vec<u8>>,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be opened.
    #[error("{file}: cannot be opened")]
    Open {
        /// Its name.
        file: Arc<str>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It broke off or is damaged.
    #[error("{file}: cannot be read after line {line}, at byte {byte} of the file")]
    Read {
        /// Its name.
        file: Arc<str>,
        /// The last line that was read.
        line: u64,
        /// Where in the file, before any decompression.
        byte: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The lines of one file, batch by batch. Ends after its first error.
pub struct FileLines {
    file: Arc<str>,
    reader: Box<dyn BufRead + Send>,
    raw_bytes: Arc<AtomicU64>,
    next_line: u64,
    ended: bool,
}

impl FileLines {
    /// Opens a file, plain or gzip (told apart by its first bytes); `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        if path == Path::new("-") {
            return Self::new("standard input".into(), io::stdin());
        }
        let file: Arc<str> = path.display().to_string().into();
        match File::open(path) {
            Ok(opened) => Self::new(file, opened),
            Err(source) => Err(SourceError::Open { file, source }),
        }
    }

    fn new(file: Arc<str>, source: impl Read + Send + 'static) -> Result<Self, SourceError> {
        let raw_bytes = Arc::new(AtomicU64::new(0));
        let counted = CountedRead {
            inner: source,
            bytes: Arc::clone(&raw_bytes),
        };
        let mut buffered = BufReader::with_capacity(READ_BUFFER_BYTES, counted);
        let is_gzip = match buffered.fill_buf() {
            Ok(start) => start.starts_with(&GZIP_MAGIC),
            Err(source) => return Err(SourceError::Open { file, source }),
        };
        let reader: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(
                READ_BUFFER_BYTES,
                MultiGzDecoder::new(buffered),
            ))
        } else {
            Box::new(buffered)
        };
        Ok(Self {
            file,
            reader,
            raw_bytes,
            next_line: 1,
            ended: false,
        })
    }

    fn read_batch(&mut self) -> io::Result<LineBatch> {
        let mut batch = LineBatch {
            file: Arc::clone(&self.file),
            first_line: self.next_line,
            lines: Vec::new(),
        };
        let mut bytes = 0;
        while batch.lines.len() < MAX_BATCH_LINES && bytes < BATCH_BYTES {
            let Some(line) = read_line(&mut self.reader)? else {
                break;
            };
            bytes += line.len();
            self.next_line += 1;
            batch.lines.push(line);
        }
        Ok(batch)
    }
}

impl Iterator for FileLines {
    type Item = Result<LineBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.read_batch().map_err(|source| SourceError::Read {
            file: Arc::clone(&self.file),
            line: self.next_line - 1,
            byte: self.raw_bytes.load(Ordering::Relaxed),
            source,
        });
        self.ended = !matches!(&batch, Ok(batch) if !batch.lines.is_empty());
        match batch {
            Ok(batch) if batch.lines.is_empty() => None,
            other => Some(other),
        }
    }
}

/// The lines of several files, one after the other, read on a thread of their own. The stream ends after an error.
pub fn read_files(
    paths: Vec<PathBuf>,
) -> impl Stream<Item = Result<LineBatch, SourceError>> + Send + Unpin {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || send_files(&paths, &sender));
    ReceiverStream::new(receiver)
}

fn send_files(paths: &[PathBuf], sender: &mpsc::Sender<Result<LineBatch, SourceError>>) {
    for path in paths {
        match FileLines::open(path) {
            Ok(lines) => {
                for batch in lines {
                    let failed = batch.is_err();
                    if sender.blocking_send(batch).is_err() || failed {
                        return;
                    }
                }
            }
            Err(error) => {
                // A receiver that is gone wants no errors either.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
    }
}

/// One line without its end; `None` at the end of the file. Of a line that is too long only the beginning is kept in
/// memory, the rest is skipped.
fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = MAX_LINE_BYTES as u64 + 2;
    if reader.take(limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') && line.len() as u64 == limit {
        reader.skip_until(b'\n')?;
        return Ok(Some(line));
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some(line))
}

/// Counts what is taken from a file, so that an error can say where.
struct CountedRead<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn lines_of(bytes: Vec<u8>) -> Vec<Result<LineBatch, SourceError>> {
        FileLines::new("test".into(), Cursor::new(bytes))
            .unwrap()
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_gzip_members_give_the_same_lines() {
        let plain = lines_of(b"one\r\ntwo\n\nfour".to_vec());
        let mut members = gzip(b"one\r\ntw");
        members.extend(gzip(b"o\n\nfour"));
        let compressed = lines_of(members);
        assert_eq!(plain.len(), 1);
        assert_eq!(plain[0].as_ref().unwrap(), compressed[0].as_ref().unwrap());
        let expected: Vec<&[u8]> = vec![b"one", b"two", b"", b"four"];
        assert_eq!(plain[0].as_ref().unwrap().lines, expected);
    }

    #[test]
    fn batches_keep_their_line_numbers() {
        let text = "x\n".repeat(MAX_BATCH_LINES + 3);
        let batches: Vec<LineBatch> = lines_of(text.into_bytes())
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[1].first_line, MAX_BATCH_LINES as u64 + 1);
        assert_eq!(batches[1].lines.len(), 3);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; MAX_LINE_BYTES * 2];
        text.extend(b"\nnext\n");
        let batches: Vec<LineBatch> = lines_of(text).into_iter().map(Result::unwrap).collect();
        assert!(batches[0].lines[0].len() > MAX_LINE_BYTES);
        assert!(batches[0].lines[0].len() < MAX_LINE_BYTES + 10);
        assert_eq!(batches[1].lines[0], b"next");
        assert_eq!(batches[1].first_line, 2);
    }

    #[test]
    fn a_cut_gzip_file_is_an_error_that_says_where() {
        let whole = gzip("line\n".repeat(100_000).as_bytes());
        let results = lines_of(whole[..whole.len() / 2].to_vec());
        let error = results.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with("test: cannot be read after line "),
            "{error}"
        );
        assert!(results[..results.len() - 1].iter().all(Result::is_ok));
    }
}
