//! The documents part: ids, titles, metadata and passage texts, found by ordinal or by document id.
//!
//! Two files. `texts.bin` is one stream of text, cut into blocks of 16 KiB, each compressed with zstd on its own:
//! reading one passage decompresses one block or two. The stream has, document by document, the title, the
//! metadata and the texts of the passages. `tables.bin` is mapped and says where each of them ends:
//!
//! ```text
//! magic, documents u32, passages u32, stream bytes u64, blocks u64, id bytes u64
//! end of each block in texts.bin      u64 × blocks
//! end of each passage in the stream   u64 × passages
//! end of each id in the ids           u64 × documents
//! first passage of each document      u32 × documents
//! title bytes, metadata bytes         u32 × 2 × documents
//! ids, ascending
//! ```
//!
//! Opening checks every table once; reading checks every bound again, so that damage is an error and never a panic.

use std::{
    cell::RefCell,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use zstd::bulk::{Compressor, Decompressor};

use crate::{
    SegmentError,
    layout::{Walk, is_ascending, u32_at, u32s, u64_at, u64s},
    mapped::Mapped,
    store::PartFiles,
};

/// Longest document id.
pub const MAX_DOCUMENT_ID_BYTES: usize = 512;
/// Most bytes of one document: title, metadata and all its passages.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

const TEXTS: &str = "texts.bin";
const TABLES: &str = "tables.bin";
const MAGIC: &[u8; 8] = b"fmdocs01";
/// Text halves in size from blocks of 4 KiB up to 16 KiB, and gains little beyond; decompressing one takes
/// about 20 µs.
const BLOCK_BYTES: usize = 16 << 10;
const ZSTD_LEVEL: i32 = 3;

/// A document to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Unique within the collection; not empty.
    pub id: String,
    /// Empty: none.
    pub title: String,
    /// A JSON object. Empty: none.
    pub metadata_json: String,
    /// Texts of its passages: at least one.
    pub passages: Vec<String>,
}

/// A stored passage and the document that it is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPassage {
    /// Document id, as indexed.
    pub document_id: String,
    /// Title of the document. Empty: none.
    pub title: String,
    /// Text of the passage.
    pub text: String,
    /// Metadata of the document: a JSON object. Empty: none.
    pub metadata_json: String,
    /// Place of the passage in its document, from 0.
    pub passage: u32,
}

/// Writes the documents part of a segment.
pub struct DocumentsWriter {
    folder: PathBuf,
    texts: BufWriter<File>,
    compressor: Compressor<'static>,
    block: Vec<u8>,
    stream_bytes: u64,
    file_bytes: u64,
    block_ends: Vec<u64>,
    passage_ends: Vec<u64>,
    id_ends: Vec<u64>,
    first_passages: Vec<u32>,
    head_bytes: Vec<u32>,
    ids: Vec<u8>,
}

impl DocumentsWriter {
    /// Starts the part in an existing empty folder.
    pub fn new(folder: &Path) -> Result<Self, SegmentError> {
        let texts = folder.join(TEXTS);
        let file = File::create(&texts).map_err(SegmentError::io(&texts))?;
        let compressor = Compressor::new(ZSTD_LEVEL).map_err(SegmentError::io(&texts))?;
        Ok(Self {
            folder: folder.to_owned(),
            texts: BufWriter::new(file),
            compressor,
            block: Vec::with_capacity(BLOCK_BYTES),
            stream_bytes: 0,
            file_bytes: 0,
            block_ends: Vec::new(),
            passage_ends: Vec::new(),
            id_ends: Vec::new(),
            first_passages: Vec::new(),
            head_bytes: Vec::new(),
            ids: Vec::new(),
        })
    }

    /// Adds a document. Ids ascend in byte order and do not repeat.
    pub fn push(&mut self, document: &Document) -> Result<(), SegmentError> {
        self.check(document)?;
        self.first_passages.push(count(self.passage_ends.len())?);
        self.head_bytes.push(count(document.title.len())?);
        self.head_bytes.push(count(document.metadata_json.len())?);
        self.ids.extend_from_slice(document.id.as_bytes());
        self.id_ends.push(self.ids.len() as u64);
        self.append(document.title.as_bytes())?;
        self.append(document.metadata_json.as_bytes())?;
        for text in &document.passages {
            self.append(text.as_bytes())?;
            self.passage_ends.push(self.stream_bytes);
        }
        Ok(())
    }

    /// Documents so far.
    #[must_use]
    pub fn documents(&self) -> u32 {
        u32::try_from(self.id_ends.len()).unwrap_or(u32::MAX)
    }

    /// Passages so far.
    #[must_use]
    pub fn passages(&self) -> u32 {
        u32::try_from(self.passage_ends.len()).unwrap_or(u32::MAX)
    }

    /// Writes the tables.
    pub fn finish(mut self) -> Result<(), SegmentError> {
        self.end_block()?;
        self.texts
            .flush()
            .map_err(SegmentError::io(self.folder.join(TEXTS)))?;
        let tables = self.folder.join(TABLES);
        std::fs::write(&tables, self.tables()?).map_err(SegmentError::io(&tables))
    }

    fn check(&self, document: &Document) -> Result<(), SegmentError> {
        let id = &document.id;
        let refuse = |reason: &str| Err(SegmentError::invalid(format!("document {id:?} {reason}")));
        if id.is_empty() || id.len() > MAX_DOCUMENT_ID_BYTES {
            return refuse(&format!(
                "has an id of {} bytes, not 1 to {MAX_DOCUMENT_ID_BYTES}",
                id.len()
            ));
        }
        if self.last_id().is_some_and(|last| last >= id.as_bytes()) {
            return refuse("comes out of order, or twice");
        }
        if document.passages.is_empty() {
            return refuse("has no passages");
        }
        let texts: usize = document.passages.iter().map(String::len).sum();
        if document.title.len() + document.metadata_json.len() + texts > MAX_DOCUMENT_BYTES {
            return refuse(&format!("has more than {MAX_DOCUMENT_BYTES} bytes"));
        }
        let passages = self.passage_ends.len() + document.passages.len();
        count(passages).map(|_| ())
    }

    fn last_id(&self) -> Option<&[u8]> {
        self.id_ends.last()?;
        let start = self
            .id_ends
            .iter()
            .rev()
            .nth(1)
            .copied()
            .unwrap_or_default();
        self.ids.get(usize::try_from(start).ok()?..)
    }

    fn append(&mut self, mut text: &[u8]) -> Result<(), SegmentError> {
        self.stream_bytes += text.len() as u64;
        while !text.is_empty() {
            let (now, later) = text.split_at(text.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            text = later;
            if self.block.len() == BLOCK_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), SegmentError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let written = self
            .compressor
            .compress(&self.block)
            .and_then(|compressed| {
                self.texts.write_all(&compressed)?;
                Ok(compressed.len() as u64)
            });
        self.file_bytes += written.map_err(SegmentError::io(self.folder.join(TEXTS)))?;
        self.block_ends.push(self.file_bytes);
        self.block.clear();
        Ok(())
    }

    fn tables(&self) -> Result<Vec<u8>, SegmentError> {
        let mut tables = MAGIC.to_vec();
        tables.extend(count(self.id_ends.len())?.to_le_bytes());
        tables.extend(count(self.passage_ends.len())?.to_le_bytes());
        let lengths = [
            self.stream_bytes,
            self.block_ends.len() as u64,
            self.ids.len() as u64,
        ];
        for table in [
            &lengths[..],
            &self.block_ends,
            &self.passage_ends,
            &self.id_ends,
        ] {
            tables.extend(table.iter().flat_map(|number| number.to_le_bytes()));
        }
        for table in [&self.first_passages, &self.head_bytes] {
            tables.extend(table.iter().flat_map(|number| number.to_le_bytes()));
        }
        tables.extend_from_slice(&self.ids);
        Ok(tables)
    }
}

fn count(number: usize) -> Result<u32, SegmentError> {
    u32::try_from(number)
        .map_err(|_| SegmentError::invalid(format!("{number} of something in one segment")))
}

/// The documents part of a segment, mapped.
pub struct Documents {
    tables: Mapped,
    texts: Mapped,
    layout: Layout,
}

/// Where the tables lie in `tables.bin`.
struct Layout {
    documents: u32,
    passages: u32,
    stream_bytes: u64,
    block_ends: Range<usize>,
    passage_ends: Range<usize>,
    id_ends: Range<usize>,
    first_passages: Range<usize>,
    head_bytes: Range<usize>,
    ids: Range<usize>,
}

impl Documents {
    /// Opens the part and checks its tables.
    pub fn open(files: &PartFiles) -> Result<Self, SegmentError> {
        let tables = Mapped::open(files.get(TABLES)?)?;
        let texts = Mapped::open(files.get(TEXTS)?)?;
        let layout = Layout::read(&tables)?;
        let documents = Self {
            tables,
            texts,
            layout,
        };
        documents
            .check()
            .map_err(|reason| SegmentError::damaged(TABLES, reason))?;
        Ok(documents)
    }

    /// Passages stored.
    #[must_use]
    pub fn passages(&self) -> u32 {
        self.layout.passages
    }

    /// Documents stored.
    #[must_use]
    pub fn documents(&self) -> u32 {
        self.layout.documents
    }

    /// The document that a passage is part of. None: there is no such passage.
    #[must_use]
    pub fn document_of(&self, ordinal: u32) -> Option<u32> {
        if ordinal >= self.layout.passages {
            return None;
        }
        let (mut low, mut high) = (0, self.layout.documents);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.first_passage(middle)? <= ordinal {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(low)
    }

    /// The first passage of a document. None: there is no such document.
    #[must_use]
    pub fn first_passage(&self, document: u32) -> Option<u32> {
        u32_at(self.table(&self.layout.first_passages), document as usize)
    }

    /// The passages of a document. None: there is no such document.
    #[must_use]
    pub fn passages_of(&self, document: u32) -> Option<Range<u32>> {
        let first = self.first_passage(document)?;
        Some(
            first
                ..self
                    .first_passage(document + 1)
                    .unwrap_or(self.layout.passages),
        )
    }

    /// The passages of each document, in order.
    pub fn passage_ranges(&self) -> impl Iterator<Item = Range<u32>> {
        let firsts = || u32s(self.table(&self.layout.first_passages));
        let ends = firsts().skip(1).chain([self.layout.passages]);
        firsts().zip(ends).map(|(first, end)| first..end)
    }

    /// The id of a document. None: there is no such document.
    #[must_use]
    pub fn document_id(&self, document: u32) -> Option<&str> {
        std::str::from_utf8(self.id_bytes(document)?).ok()
    }

    /// The id of the document that a passage is part of. None: there is no such passage.
    #[must_use]
    pub fn document_id_of(&self, ordinal: u32) -> Option<&str> {
        self.document_id(self.document_of(ordinal)?)
    }

    /// The first passage of the document that a passage is part of. None: there is no such passage.
    #[must_use]
    pub fn first_passage_of(&self, ordinal: u32) -> Option<u32> {
        self.first_passage(self.document_of(ordinal)?)
    }

    /// The passages of the document with this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Range<u32>> {
        let (mut low, mut high) = (0, self.layout.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id_bytes(middle)?.cmp(id.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return self.passages_of(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// A stored passage. None: there is no such passage.
    pub fn passage(&self, ordinal: u32) -> Result<Option<StoredPassage>, SegmentError> {
        let Some(document) = self.document_of(ordinal) else {
            return Ok(None);
        };
        let place = || {
            let head = self.head(document)?;
            let first = self.first_passage(document)?;
            let start = if ordinal == first {
                head.metadata.end
            } else {
                self.passage_end(ordinal - 1)?
            };
            Some((head, ordinal - first, start..self.passage_end(ordinal)?))
        };
        let (head, passage, text) =
            place().ok_or_else(|| SegmentError::damaged(TABLES, "contradicts itself"))?;
        Ok(Some(StoredPassage {
            document_id: self.document_id(document).unwrap_or_default().to_owned(),
            title: self.text(head.title)?,
            text: self.text(text)?,
            metadata_json: self.text(head.metadata)?,
            passage,
        }))
    }

    /// A stored document with all its passages. None: there is no such document.
    pub fn document(&self, document: u32) -> Result<Option<Document>, SegmentError> {
        let Some(ordinals) = self.passages_of(document) else {
            return Ok(None);
        };
        let contradiction = || SegmentError::damaged(TABLES, "contradicts itself");
        let head = self.head(document).ok_or_else(contradiction)?;
        let mut start = head.metadata.end;
        let mut passages = Vec::new();
        for ordinal in ordinals {
            let end = self.passage_end(ordinal).ok_or_else(contradiction)?;
            passages.push(self.text(start..end)?);
            start = end;
        }
        Ok(Some(Document {
            id: self.document_id(document).unwrap_or_default().to_owned(),
            title: self.text(head.title)?,
            metadata_json: self.text(head.metadata)?,
            passages,
        }))
    }

    fn table(&self, range: &Range<usize>) -> &[u8] {
        self.tables.get(range.clone()).unwrap_or_default()
    }

    fn id_bytes(&self, document: u32) -> Option<&[u8]> {
        let ends = self.table(&self.layout.id_ends);
        let start = match document.checked_sub(1) {
            Some(before) => u64_at(ends, before as usize)?,
            None => 0,
        };
        let end = u64_at(ends, document as usize)?;
        self.table(&self.layout.ids)
            .get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    fn passage_end(&self, ordinal: u32) -> Option<u64> {
        u64_at(self.table(&self.layout.passage_ends), ordinal as usize)
    }

    fn head(&self, document: u32) -> Option<Head> {
        let start = match self.first_passage(document)?.checked_sub(1) {
            Some(before) => self.passage_end(before)?,
            None => 0,
        };
        let lengths = self.table(&self.layout.head_bytes);
        let title_end = start.checked_add(u32_at(lengths, document as usize * 2)?.into())?;
        let metadata_end =
            title_end.checked_add(u32_at(lengths, document as usize * 2 + 1)?.into())?;
        Some(Head {
            title: start..title_end,
            metadata: title_end..metadata_end,
        })
    }

    fn text(&self, stream: Range<u64>) -> Result<String, SegmentError> {
        let bytes = self.read(stream)?;
        String::from_utf8(bytes)
            .map_err(|_| SegmentError::damaged(TEXTS, "has text that is not UTF-8"))
    }

    /// Bytes of the stream, out of one block or several.
    fn read(&self, stream: Range<u64>) -> Result<Vec<u8>, SegmentError> {
        let block_bytes = BLOCK_BYTES as u64;
        let length = stream
            .end
            .checked_sub(stream.start)
            .and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|&length| length <= MAX_DOCUMENT_BYTES);
        let length =
            length.ok_or_else(|| SegmentError::damaged(TABLES, "has a text out of range"))?;
        let mut text = Vec::with_capacity(length);
        let mut at = stream.start;
        while at < stream.end {
            let block = self.block(at / block_bytes)?;
            let from = usize::try_from(at % block_bytes).unwrap_or(BLOCK_BYTES);
            let piece = block
                .get(from..block.len().min(from + length - text.len()))
                .unwrap_or_default();
            if piece.is_empty() {
                return Err(SegmentError::damaged(
                    TEXTS,
                    "has a block that is too short",
                ));
            }
            text.extend_from_slice(piece);
            at += piece.len() as u64;
        }
        Ok(text)
    }

    fn block(&self, index: u64) -> Result<Vec<u8>, SegmentError> {
        let compressed = self.compressed_block(index);
        let compressed = compressed
            .ok_or_else(|| SegmentError::damaged(TEXTS, format!("has no block {index}")))?;
        decompress(compressed)
            .map_err(|error| SegmentError::damaged(TEXTS, format!("block {index}: {error}")))
    }

    fn compressed_block(&self, index: u64) -> Option<&[u8]> {
        let ends = self.table(&self.layout.block_ends);
        let index = usize::try_from(index).ok()?;
        let start = match index.checked_sub(1) {
            Some(before) => u64_at(ends, before)?,
            None => 0,
        };
        self.texts
            .get(usize::try_from(start).ok()?..usize::try_from(u64_at(ends, index)?).ok()?)
    }

    /// Everything that can be told without decompressing.
    fn check(&self) -> Result<(), String> {
        let layout = &self.layout;
        let ends = |range: &Range<usize>, end: u64| {
            let table = || u64s(self.table(range));
            is_ascending(table()) && table().last().unwrap_or_default() == end
        };
        let blocks = layout.stream_bytes.div_ceil(BLOCK_BYTES as u64);
        let holds = [
            (
                "block count",
                (layout.block_ends.len() / 8) as u64 == blocks,
            ),
            (
                "block ends",
                ends(&layout.block_ends, self.texts.len() as u64),
            ),
            (
                "passage ends",
                ends(&layout.passage_ends, layout.stream_bytes),
            ),
            ("id ends", ends(&layout.id_ends, layout.ids.len() as u64)),
            ("first passages", self.first_passages_hold()),
            ("title and metadata lengths", self.heads_hold()),
            ("ids", self.ids_hold()),
        ];
        match holds.iter().find(|(_, holds)| !holds) {
            Some((table, _)) => Err(format!("{table} contradict the rest")),
            None => Ok(()),
        }
    }

    fn first_passages_hold(&self) -> bool {
        let mut next = 0;
        let each = self.passage_ranges().all(|range| {
            let follows = range.start == next && range.start < range.end;
            next = range.end;
            follows
        });
        each && next == self.layout.passages
    }

    fn heads_hold(&self) -> bool {
        (0..self.layout.documents).all(|document| {
            let first_end = self
                .first_passage(document)
                .and_then(|first| self.passage_end(first));
            let head = self.head(document);
            head.zip(first_end)
                .is_some_and(|(head, first_end)| head.metadata.end <= first_end)
        })
    }

    fn ids_hold(&self) -> bool {
        let id = |document| self.document_id(document).filter(|id| !id.is_empty());
        let mut ids = (0..self.layout.documents).map(id);
        let first = ids.next();
        let mut last = first.flatten();
        let rest_holds = ids.all(|id| {
            let follows = id.is_some() && id > last;
            last = id;
            follows
        });
        first.is_none_or(|id| id.is_some()) && rest_holds
    }
}

/// Where the title and the metadata of a document lie in the stream.
struct Head {
    title: Range<u64>,
    metadata: Range<u64>,
}

impl Layout {
    fn read(tables: &[u8]) -> Result<Self, SegmentError> {
        let mut walk = Walk::new(TABLES, tables, MAGIC)?;
        let (documents, passages) = (walk.u32()?, walk.u32()?);
        let stream_bytes = walk.u64()?;
        let (blocks, id_bytes) = (walk.length()?, walk.length()?);
        let layout = Self {
            documents,
            passages,
            stream_bytes,
            block_ends: walk.array(blocks, 8)?,
            passage_ends: walk.array(passages as usize, 8)?,
            id_ends: walk.array(documents as usize, 8)?,
            first_passages: walk.array(documents as usize, 4)?,
            head_bytes: walk.array(documents as usize, 8)?,
            ids: walk.take(id_bytes)?,
        };
        walk.end()?;
        Ok(layout)
    }
}

thread_local! {
    /// A decompressor is costly to make and is reused; None until the first block, or if it cannot be made.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// At most a block's length comes out, whatever the bytes claim.
fn decompress(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        decompressor.decompress_to_buffer(compressed, &mut block)?;
        Ok(block)
    })
}

#[cfg(test)]
mod tests;
