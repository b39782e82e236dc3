use super::*;

fn file(path: &str) -> FileEntry {
    FileEntry::of_bytes(path, path.as_bytes())
}

fn manifest() -> Manifest {
    let part = |name: &str| {
        (
            name.to_owned(),
            vec![file(&format!("segments/0-a/{name}/data.bin"))],
        )
    };
    Manifest {
        format: FORMAT,
        collection: "test".parse().unwrap(),
        number: 1,
        settings: CollectionSettings {
            shards: 2,
            stages: vec![Stage::Sparse, Stage::Dense],
            passage_tokens: 200,
            overlap_tokens: 20,
            language: "english".to_owned(),
            encoder: Some(EncoderSettings {
                fingerprint: "f".to_owned(),
                dimensions: 384,
            }),
            dense: Some(DenseSettings {
                dimensions: 384,
                prefix_dimensions: 64,
                prefix_depth: 1000,
                rotated: true,
                rotation_sample: 20_000,
                graph_min_passages: 100_000,
            }),
            rescore: None,
            colbert: None,
        },
        attributes: AttributeTypes::default(),
        rotation: Some(file("snapshots/1-a/rotation.bin")),
        token_rotation: None,
        statistics: Some(file("snapshots/1-a/statistics.fst")),
        next_segment: 1,
        segments: vec![SegmentEntry {
            number: 0,
            shard: 1,
            documents: 2,
            passages: 3,
            deleted_passages: 1,
            parts: ["documents", "attributes", "sparse", "dense"]
                .map(part)
                .into(),
            deletes: Some(file("snapshots/1-a/deletes-0.bin")),
        }],
    }
}

#[test]
fn what_is_written_is_read() {
    let json = manifest().to_json().unwrap();
    assert_eq!(Manifest::from_json("m", &json).unwrap(), manifest());
    assert_eq!(manifest().live_passages(), 2);
    assert_eq!(manifest().files().count(), 7);
    assert_eq!(manifest().next().number, 2);
}

type Spoil = fn(&mut Manifest);

#[test]
fn nonsense_is_refused() {
    let cases: &[(&str, Spoil)] = &[
        ("format is 2", |m| m.format = 2),
        ("number is 0", |m| m.number = 0),
        ("shards is 0", |m| m.settings.shards = 0),
        ("shards is 1025", |m| m.settings.shards = 1025),
        ("passage_tokens is 8", |m| m.settings.passage_tokens = 8),
        ("overlap_tokens 100 is not less", |m| {
            m.settings.overlap_tokens = 100
        }),
        ("language is empty", |m| m.settings.language.clear()),
        ("stages are empty", |m| m.settings.stages.clear()),
        ("stages are empty or named twice", |m| {
            m.settings.stages.push(Stage::Dense)
        }),
        ("the sparse stage is missing", |m| {
            m.settings.stages = vec![Stage::Dense]
        }),
        ("come together", |m| m.settings.encoder = None),
        ("come together", |m| m.settings.stages = vec![Stage::Sparse]),
        ("385 of 384 dimensions stored", |m| {
            dense(m).dimensions = 385
        }),
        ("0 of 384 dimensions in the prefix", |m| {
            dense(m).prefix_dimensions = 0
        }),
        ("prefix_depth is 0", |m| dense(m).prefix_depth = 0),
        ("rescore and the rescore stage", |m| {
            m.settings.rescore = Some(rescorer("g"))
        }),
        ("rescore and the rescore stage", |m| {
            m.settings.stages.push(Stage::Rescore)
        }),
        ("rescore has the encoder's own fingerprint", |m| {
            add_rescore(m, rescorer("f"))
        }),
        ("encoder fingerprint is empty", |m| {
            add_rescore(m, rescorer(""))
        }),
        ("0 dimensions encoded", |m| {
            let dimensions = 0;
            add_rescore(
                m,
                EncoderSettings {
                    dimensions,
                    ..rescorer("g")
                },
            )
        }),
        ("rescore needs the dense stage", |m| {
            add_rescore(m, rescorer("g"));
            m.settings.stages.remove(1);
            (m.settings.encoder, m.settings.dense) = (None, None);
        }),
        ("has parts", |m| add_rescore(m, rescorer("g"))),
        ("colbert and the colbert stage", |m| {
            m.settings.colbert = Some(colbert("f"))
        }),
        ("colbert and the colbert stage", |m| {
            m.settings.stages.push(Stage::Colbert)
        }),
        ("colbert has another fingerprint than the encoder", |m| {
            add_colbert(m, colbert("g"))
        }),
        ("colbert fingerprint is empty", |m| {
            add_colbert(m, colbert(""))
        }),
        ("97 of 96 token dimensions stored", |m| {
            let token_dimensions = 96;
            add_colbert(
                m,
                ColbertSettings {
                    token_dimensions,
                    dimensions: 97,
                    ..colbert("f")
                },
            )
        }),
        ("0 token dimensions", |m| {
            let token_dimensions = 0;
            add_colbert(
                m,
                ColbertSettings {
                    token_dimensions,
                    ..colbert("f")
                },
            )
        }),
        ("colbert pooling is 4", |m| {
            let pooling = 4;
            add_colbert(
                m,
                ColbertSettings {
                    pooling,
                    ..colbert("f")
                },
            )
        }),
        ("token_rotation is missing", |m| {
            add_colbert(m, colbert("f"));
            m.token_rotation = None;
        }),
        ("token_rotation is set but unused", |m| {
            m.token_rotation = Some(file("snapshots/1-a/token_rotation.bin"))
        }),
        ("has parts", |m| add_colbert(m, colbert("f"))),
        ("rotation is set but unused", |m| dense(m).rotated = false),
        ("rotation is missing", |m| m.rotation = None),
        ("statistics are missing", |m| m.statistics = None),
        ("segment 0: next_segment is 0", |m| m.next_segment = 0),
        ("segment 0: is listed twice", |m| {
            let mut twin = m.segments[0].clone();
            twin.deletes = None;
            twin.deleted_passages = 0;
            for file in twin.parts.values_mut().flatten() {
                file.path = file.path.replace("0-a", "0-b");
            }
            m.segments.push(twin);
        }),
        ("segment 0: shard 2 of 2", |m| m.segments[0].shard = 2),
        ("segment 0: 4 documents, 3 passages", |m| {
            m.segments[0].documents = 4
        }),
        ("segment 0: 0 documents, 3 passages", |m| {
            m.segments[0].documents = 0
        }),
        ("4 of 3 passages deleted", |m| {
            m.segments[0].deleted_passages = 4
        }),
        ("deletes file and count contradict", |m| {
            m.segments[0].deleted_passages = 0
        }),
        ("deletes file and count contradict", |m| {
            m.segments[0].deletes = None
        }),
        ("has parts", |m| {
            drop(m.segments[0].parts.remove("documents"))
        }),
        ("has parts", |m| {
            drop(m.segments[0].parts.insert("colbert".to_owned(), vec![]))
        }),
        ("part dense has no files", |m| part(m, "dense").clear()),
        ("part dense is scattered", |m| {
            part(m, "dense")[0].path = "segments/0-a/data.bin".to_owned()
        }),
        ("listed twice", |m| m.rotation = m.statistics.clone()),
        ("is not plain", |m| {
            part(m, "dense")[0].path = "segments/../../dense/x".to_owned()
        }),
        ("is not plain", |m| {
            part(m, "dense")[0].path = "/etc/dense/x".to_owned()
        }),
        ("no such folder", |m| {
            part(m, "dense")[0].path = "manifests/dense/x".to_owned()
        }),
        ("is not a checksum", |m| {
            part(m, "dense")[0].checksum = "xyz".to_owned()
        }),
    ];
    for (wanted, spoil) in cases {
        let mut spoilt = manifest();
        spoil(&mut spoilt);
        let written = spoilt.to_json().unwrap_err().to_string();
        assert!(written.contains(wanted), "{written}, not {wanted}");
        let stored = Stored {
            checksum: spoilt.checksum().unwrap(),
            manifest: to_value(&spoilt).unwrap(),
        };
        let read = Manifest::from_json("m.json", &serde_json::to_vec(&stored).unwrap())
            .unwrap_err()
            .to_string();
        let foreign = read.contains("has format 2, this build reads 1");
        assert!(
            read.starts_with("m.json: ") && (read.contains(wanted) || foreign),
            "{read}, not {wanted}"
        );
    }
}

fn rescorer(fingerprint: &str) -> EncoderSettings {
    EncoderSettings {
        fingerprint: fingerprint.to_owned(),
        dimensions: 768,
    }
}

/// The settings; its segments still lack the part.
fn add_rescore(manifest: &mut Manifest, rescorer: EncoderSettings) {
    manifest.settings.stages.push(Stage::Rescore);
    manifest.settings.rescore = Some(rescorer);
}

fn colbert(fingerprint: &str) -> ColbertSettings {
    ColbertSettings {
        fingerprint: fingerprint.to_owned(),
        token_dimensions: 384,
        dimensions: 96,
        rotated: true,
        rotation_sample: 20_000,
        pooling: 1,
    }
}

/// The settings and the rotation; its segments still lack the part.
fn add_colbert(manifest: &mut Manifest, colbert: ColbertSettings) {
    manifest.settings.stages.push(Stage::Colbert);
    manifest.settings.colbert = Some(colbert);
    manifest.token_rotation = Some(file("snapshots/1-a/token_rotation.bin"));
}

#[test]
fn token_vectors_are_kept_and_need_no_new_format() {
    let without = String::from_utf8(manifest().to_json().unwrap()).unwrap();
    assert!(!without.contains("colbert") && !without.contains("token_rotation"));
    let mut with = manifest();
    add_colbert(&mut with, colbert("f"));
    let part = vec![file("segments/0-a/colbert/data.bin")];
    with.segments[0].parts.insert("colbert".to_owned(), part);
    let read = Manifest::from_json("m", &with.to_json().unwrap()).unwrap();
    assert_eq!(read, with);
    assert_eq!(
        (read.colbert_fingerprint(), manifest().colbert_fingerprint()),
        ("f", "")
    );
    assert!(read.has_part("colbert") && !manifest().has_part("colbert"));
    let rotation = read.token_rotation.as_ref().unwrap();
    assert!(read.files().any(|file| file == rotation));
    // Token vectors alone, without a dense stage.
    with.settings.stages.remove(1);
    (with.settings.encoder, with.settings.dense, with.rotation) = (None, None, None);
    with.segments[0].parts.remove("dense");
    with.to_json().unwrap();
}

#[test]
fn vectors_for_rescoring_are_kept_and_need_no_new_format() {
    assert!(
        !manifest()
            .to_json()
            .unwrap()
            .windows(8)
            .any(|word| word == b"rescore\"")
    );
    let mut rescored = manifest();
    add_rescore(&mut rescored, rescorer("g"));
    let file = file("segments/0-a/rescore/data.bin");
    rescored.segments[0]
        .parts
        .insert("rescore".to_owned(), vec![file]);
    let read = Manifest::from_json("m", &rescored.to_json().unwrap()).unwrap();
    assert_eq!(read, rescored);
    assert_eq!(
        (read.rescore_fingerprint(), manifest().rescore_fingerprint()),
        ("g", "")
    );
    assert!(read.has_part("rescore") && !manifest().has_part("rescore"));
}

fn dense(manifest: &mut Manifest) -> &mut DenseSettings {
    manifest.settings.dense.as_mut().unwrap()
}

fn part<'a>(manifest: &'a mut Manifest, name: &str) -> &'a mut Vec<FileEntry> {
    manifest.segments[0].parts.get_mut(name).unwrap()
}

#[test]
fn every_flipped_or_missing_byte_is_found() {
    let whole = manifest().to_json().unwrap();
    for place in 0..whole.len() {
        assert!(
            Manifest::from_json("m", &whole[..place]).is_err(),
            "cut at {place}"
        );
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        if let Ok(read) = Manifest::from_json("m", &flipped) {
            // White space between the tokens may change; nothing else.
            assert_eq!(read, manifest(), "flipped at {place}");
        }
    }
}

#[test]
fn unknown_fields_are_refused() {
    let mut stored: Value = serde_json::from_slice(&manifest().to_json().unwrap()).unwrap();
    stored["manifest"]["segments"][0]["colour"] = "red".into();
    let error = Manifest::from_json("m", &serde_json::to_vec(&stored).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `colour`"),
        "{error}"
    );
}
