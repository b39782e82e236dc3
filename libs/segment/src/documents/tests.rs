use proptest::prelude::*;

use super::*;

fn written(documents: &[Document]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = DocumentsWriter::new(folder.path()).unwrap();
    documents
        .iter()
        .for_each(|document| writer.push(document).unwrap());
    assert_eq!(writer.documents() as usize, documents.len());
    writer.finish().unwrap();
    folder
}

fn open(folder: &Path) -> Result<Documents, SegmentError> {
    Documents::open(&PartFiles::of_folder(folder)?)
}

fn document(id: &str, passages: &[&str]) -> Document {
    Document {
        id: id.to_owned(),
        title: format!("title of {id}"),
        metadata_json: "{}".to_owned(),
        passages: passages.iter().map(|&text| text.to_owned()).collect(),
    }
}

/// Sorted documents without repeated ids.
fn corpora() -> impl Strategy<Value = Vec<Document>> {
    let long = ("[a-z ]{1,12}", 0_usize..4000).prop_map(|(text, times)| text.repeat(times));
    let text = prop_oneof!["\\PC{0,40}", long];
    let passages = prop::collection::vec(text, 1..4);
    let content = ("\\PC{0,20}", "[a-z]{0,9}", passages);
    prop::collection::btree_map("\\PC{1,12}", content, 0..12).prop_map(|documents| {
        let of = |(id, (title, metadata_json, passages))| Document {
            id,
            title,
            metadata_json,
            passages,
        };
        documents.into_iter().map(of).collect()
    })
}

/// Reads everything there is, and beyond; what it returns does not matter.
fn read_all(documents: &Documents) {
    for ordinal in (0..documents.passages().min(100)).chain([u32::MAX]) {
        let _ = documents.passage(ordinal);
        let _ = documents.document_id_of(ordinal);
        let _ = documents.document(ordinal);
    }
    let _ = documents.find("doc-3");
    let _ = documents.passages_of(u32::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(corpus in corpora()) {
        let folder = written(&corpus);
        let documents = open(folder.path()).unwrap();
        prop_assert_eq!(documents.documents() as usize, corpus.len());
        let mut ordinal = 0;
        for (number, document) in (0..).zip(&corpus) {
            let end = ordinal + u32::try_from(document.passages.len()).unwrap();
            prop_assert_eq!(documents.find(&document.id), Some(ordinal..end));
            prop_assert_eq!(documents.passages_of(number), Some(ordinal..end));
            prop_assert_eq!(documents.document_id(number), Some(document.id.as_str()));
            let whole = documents.document(number).unwrap();
            prop_assert_eq!(whole.as_ref(), Some(document));
            for (place, text) in (0..).zip(&document.passages) {
                prop_assert_eq!(documents.document_of(ordinal), Some(number));
                let stored = documents.passage(ordinal).unwrap().unwrap();
                let wanted = StoredPassage {
                    document_id: document.id.clone(),
                    title: document.title.clone(),
                    text: text.clone(),
                    metadata_json: document.metadata_json.clone(),
                    passage: place,
                };
                prop_assert_eq!(stored, wanted);
                ordinal += 1;
            }
        }
        prop_assert_eq!(documents.passages(), ordinal);
        prop_assert_eq!(documents.passage(ordinal).unwrap(), None);
        prop_assert_eq!(documents.document_of(ordinal), None);
        prop_assert_eq!(documents.document(documents.documents()).unwrap(), None);
        prop_assert_eq!(documents.find("not \u{0} there"), None);
    }

    #[test]
    fn ids_out_of_order_are_refused(ids in prop::collection::vec("[ab]{1,3}", 2..6)) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = DocumentsWriter::new(folder.path()).unwrap();
        let mut last: Option<&String> = None;
        for id in &ids {
            let pushed = writer.push(&document(id, &["text"]));
            let ascends = last.is_none_or(|last| last < id);
            prop_assert_eq!(pushed.is_ok(), ascends);
            if ascends {
                last = Some(id);
            }
        }
    }
}

#[test]
fn flipped_and_cut_files_are_errors_and_never_panics() {
    let corpus: Vec<_> = (0..9)
        .map(|n| document(&format!("doc-{n}"), &["some text", "more of it"]))
        .collect();
    let folder = written(&corpus);
    for name in [TABLES, TEXTS] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            for mask in [1_u8, 0x80, 0xff] {
                let mut flipped = whole.clone();
                flipped[place] ^= mask;
                rewrite(&path, &flipped);
                if let Ok(documents) = open(folder.path()) {
                    read_all(&documents);
                }
            }
            rewrite(&path, &whole[..place]);
            assert!(open(folder.path()).is_err(), "{name} cut at {place}");
        }
        rewrite(&path, &whole);
    }
    open(folder.path()).unwrap();
}

/// A new file in the place of the old one, as the store does it.
fn rewrite(path: &Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_block_that_claims_too_much_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; BLOCK_BYTES + 1], 3).unwrap();
    assert!(decompress(&bomb).is_err());
    assert!(decompress(b"no zstd").is_err());
    assert_eq!(
        decompress(&zstd::bulk::compress(b"fine", 3).unwrap()).unwrap(),
        b"fine"
    );
}

#[test]
fn documents_that_cannot_be_stored_are_refused_by_id() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = DocumentsWriter::new(folder.path()).unwrap();
    let mut refusal = |document: &Document| writer.push(document).unwrap_err().to_string();
    assert!(refusal(&document("", &["text"])).contains("id of 0 bytes"));
    assert!(refusal(&document(&"x".repeat(513), &["text"])).contains("id of 513 bytes"));
    assert_eq!(
        refusal(&document("a", &[])),
        "document \"a\" has no passages"
    );
    let large = "x".repeat(MAX_DOCUMENT_BYTES);
    assert!(refusal(&document("a", &[&large])).contains("has more than 67108864 bytes"));
}

proptest! {
    #[test]
    fn random_tables_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        counts in (0_u32..4, 0_u32..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(TEXTS), b"").unwrap();
        let mut tables = MAGIC.to_vec();
        tables.extend(counts.0.to_le_bytes());
        tables.extend(counts.1.to_le_bytes());
        tables.extend(bytes);
        std::fs::write(folder.path().join(TABLES), tables).unwrap();
        if let Ok(documents) = open(folder.path()) {
            read_all(&documents);
        }
    }
}
