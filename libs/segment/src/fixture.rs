//! For tests: collections of small segments with documents, attributes and a file each for the sparse part.

use std::collections::BTreeMap;

use bytes::Bytes;
use search_core::CollectionName;
use serde_json::json;

use crate::{
    attributes::AttributesWriter,
    bitmap::Bitmap,
    checksum::FileEntry,
    documents::{Document, DocumentsWriter},
    manifest::{
        CollectionSettings, Manifest, SegmentEntry, Stage, segment_folder, snapshot_folder,
    },
    store::Store,
};

pub(crate) fn name() -> CollectionName {
    "test".parse().unwrap()
}

pub(crate) fn settings(shards: u32) -> CollectionSettings {
    CollectionSettings {
        shards,
        stages: vec![Stage::Sparse],
        passage_tokens: 200,
        overlap_tokens: 20,
        language: "english".to_owned(),
        encoder: None,
        dense: None,
        rescore: None,
        colbert: None,
    }
}

pub(crate) fn empty(shards: u32) -> Manifest {
    Manifest::empty(name(), settings(shards))
}

/// A commit in the making, on top of another one.
pub(crate) struct Draft<'a> {
    store: &'a Store,
    pub(crate) manifest: Manifest,
}

impl<'a> Draft<'a> {
    pub(crate) async fn after(store: &'a Store, manifest: &Manifest) -> Self {
        let mut manifest = manifest.next();
        let path = format!("{}/statistics.fst", snapshot_folder(manifest.number, "run"));
        let content = Bytes::from(format!("statistics {}", manifest.number));
        manifest.statistics = Some(store.upload_bytes(&name(), &path, content).await.unwrap());
        Self { store, manifest }
    }

    /// Adds a segment of documents with two passages each.
    pub(crate) async fn segment(mut self, shard: u32, ids: &[&str]) -> Self {
        let number = self.manifest.next_segment;
        self.manifest.next_segment += 1;
        let count = u32::try_from(ids.len()).unwrap();
        let mut parts = BTreeMap::new();
        for part in ["documents", "attributes", "sparse"] {
            parts.insert(part.to_owned(), self.part(number, part, ids).await);
        }
        self.manifest.segments.push(SegmentEntry {
            number,
            shard,
            documents: count,
            passages: count * 2,
            deleted_passages: 0,
            parts,
            deletes: None,
        });
        self
    }

    async fn part(&mut self, number: u32, part: &str, ids: &[&str]) -> Vec<FileEntry> {
        let folder = tempfile::tempdir().unwrap();
        match part {
            "documents" => write_documents(folder.path(), ids),
            "attributes" => self.write_attributes(folder.path(), ids),
            _ => std::fs::write(folder.path().join("terms.bin"), format!("terms of {ids:?}"))
                .unwrap(),
        }
        let target = format!("{}/{part}", segment_folder(number, "run"));
        self.store
            .upload_dir(&name(), folder.path(), &target)
            .await
            .unwrap()
    }

    fn write_attributes(&mut self, folder: &std::path::Path, ids: &[&str]) {
        let mut writer = AttributesWriter::new(folder);
        for id in ids {
            let metadata = json!({"name": id});
            self.manifest
                .attributes
                .observe(metadata.as_object().unwrap())
                .unwrap();
            writer.push(metadata.as_object().unwrap()).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Deletes passages of the segment at this place.
    pub(crate) async fn delete(mut self, place: usize, ordinals: &[u32]) -> Self {
        let number = self.manifest.number;
        let entry = &mut self.manifest.segments[place];
        let mut deletes = Bitmap::new(entry.passages);
        ordinals.iter().for_each(|&ordinal| deletes.set(ordinal));
        let path = format!(
            "{}/deletes-{}.bin",
            snapshot_folder(number, "run"),
            entry.number
        );
        let stored = self
            .store
            .upload_bytes(&name(), &path, deletes.to_bytes().into())
            .await
            .unwrap();
        entry.deletes = Some(stored);
        entry.deleted_passages = deletes.count();
        self
    }

    pub(crate) async fn commit(self) -> Manifest {
        self.store.commit(&self.manifest).await.unwrap();
        self.manifest
    }
}

fn write_documents(folder: &std::path::Path, ids: &[&str]) {
    let mut writer = DocumentsWriter::new(folder).unwrap();
    for id in ids {
        let passages = vec![format!("first of {id}"), format!("second of {id}")];
        let document = Document {
            id: (*id).to_owned(),
            title: String::new(),
            metadata_json: String::new(),
            passages,
        };
        writer.push(&document).unwrap();
    }
    writer.finish().unwrap();
}
