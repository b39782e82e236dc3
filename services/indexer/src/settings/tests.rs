use super::*;

fn encoder(matryoshka: &[usize]) -> EncoderInfo {
    EncoderInfo {
        name: "test".into(),
        fingerprint: "f1".into(),
        dimensions: 384,
        token_dimensions: 0,
        max_tokens: 256,
        matryoshka_dimensions: matryoshka.to_vec(),
    }
}

fn alone(first: &EncoderInfo) -> EncoderInfos<'_> {
    EncoderInfos {
        first,
        rescorer: None,
    }
}

fn wishes() -> IndexSettings {
    IndexSettings::new("c".parse().unwrap())
}

fn existing(settings: CollectionSettings) -> Manifest {
    Manifest::empty("c".parse().unwrap(), settings)
}

#[test]
fn a_new_collection_takes_the_defaults() {
    let settings = wishes()
        .resolve(None, &Config::default(), alone(&encoder(&[])))
        .unwrap();
    settings.check().unwrap();
    assert_eq!((settings.shards, settings.passage_tokens), (1, 256));
    let dense = settings.dense.unwrap();
    assert_eq!(
        (dense.dimensions, dense.prefix_dimensions, dense.rotated),
        (384, 64, true)
    );
}

#[test]
fn matryoshka_widths_are_used_as_they_are() {
    let settings = wishes()
        .resolve(None, &Config::default(), alone(&encoder(&[96, 192, 384])))
        .unwrap();
    let dense = settings.dense.unwrap();
    assert_eq!(
        (dense.dimensions, dense.prefix_dimensions, dense.rotated),
        (384, 96, false)
    );
}

#[test]
fn sparse_alone_needs_no_encoder() {
    let mut wishes = wishes();
    wishes.stages = vec![Stage::Sparse, Stage::Sparse];
    wishes.passage_tokens = Some(1000);
    let settings = wishes
        .resolve(None, &Config::default(), alone(&encoder(&[])))
        .unwrap();
    settings.check().unwrap();
    assert_eq!(
        (settings.encoder, settings.dense, settings.passage_tokens),
        (None, None, 1000)
    );
}

#[test]
fn passages_that_the_encoder_would_cut_are_refused() {
    let mut wishes = wishes();
    wishes.passage_tokens = Some(257);
    let error = wishes
        .resolve(None, &Config::default(), alone(&encoder(&[])))
        .unwrap_err();
    assert_eq!(error.fields()[0].path, "settings.passage_tokens");
}

#[test]
fn other_wishes_than_the_stored_settings_are_refused_with_both() {
    let stored = wishes()
        .resolve(None, &Config::default(), alone(&encoder(&[])))
        .unwrap();
    let manifest = existing(stored.clone());
    let resolve = |wishes: &IndexSettings| {
        wishes.resolve(Some(&manifest), &Config::default(), alone(&encoder(&[])))
    };
    assert_eq!(resolve(&wishes()).unwrap(), stored);
    let mut same = wishes();
    (same.shards, same.stages) = (Some(1), vec![Stage::Dense, Stage::Sparse]);
    assert_eq!(resolve(&same).unwrap(), stored);
    let mut other = wishes();
    other.shards = Some(4);
    let message = resolve(&other).unwrap_err().to_string();
    assert_eq!(
        message,
        "shards: collection c was built with 1, but 4 was asked for"
    );
    let mut other = wishes();
    other.stages = vec![Stage::Sparse];
    assert!(
        resolve(&other)
            .unwrap_err()
            .to_string()
            .contains("sparse,dense")
    );
}

#[test]
fn another_encoder_is_refused_with_both_fingerprints() {
    let manifest = existing(
        wishes()
            .resolve(None, &Config::default(), alone(&encoder(&[])))
            .unwrap(),
    );
    let other = EncoderInfo {
        fingerprint: "f2".into(),
        ..encoder(&[])
    };
    let message = wishes()
        .resolve(Some(&manifest), &Config::default(), alone(&other))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("f1") && message.contains("f2"),
        "{message}"
    );
}

#[test]
fn rescoring_takes_a_second_bundle_and_keeps_to_it() {
    let mut wishes = wishes();
    wishes.stages = vec![Stage::Rescore, Stage::Dense, Stage::Sparse];
    let first = encoder(&[]);
    let of = |fingerprint: &str| EncoderInfo {
        fingerprint: fingerprint.into(),
        dimensions: 768,
        max_tokens: 64,
        ..encoder(&[])
    };
    let resolve = |latest: Option<&Manifest>, rescorer: Option<&EncoderInfo>| {
        let first = &first;
        wishes.resolve(latest, &Config::default(), EncoderInfos { first, rescorer })
    };
    for (rescorer, wrong) in [
        (None, "has none"),
        (Some(of("f1")), "the encoder's own, f1"),
    ] {
        let error = resolve(None, rescorer.as_ref()).unwrap_err();
        assert_eq!(error.fields()[0].path, "settings.stages");
        assert!(error.to_string().contains(wrong), "{error}");
    }
    let stored = resolve(None, Some(&of("g1"))).unwrap();
    stored.check().unwrap();
    let rescore = stored.rescore.clone().unwrap();
    assert_eq!(
        (rescore.fingerprint.as_str(), rescore.dimensions),
        ("g1", 768)
    );
    // The rescorer has no say in the passages' length.
    assert_eq!(stored.passage_tokens, 256);
    let manifest = existing(stored.clone());
    assert_eq!(resolve(Some(&manifest), Some(&of("g1"))).unwrap(), stored);
    for (rescorer, current) in [(None, "none"), (Some(of("g2")), "g2")] {
        let message = resolve(Some(&manifest), rescorer.as_ref())
            .unwrap_err()
            .to_string();
        let expected = format!(
            "collection c was built with rescorer g1, but this indexer runs rescorer {current}"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn a_rescorer_that_a_collection_does_not_use_is_no_matter() {
    let stored = wishes()
        .resolve(None, &Config::default(), alone(&encoder(&[])))
        .unwrap();
    let second = EncoderInfo {
        fingerprint: "g".into(),
        ..encoder(&[])
    };
    let both = EncoderInfos {
        first: &encoder(&[]),
        rescorer: Some(&second),
    };
    let manifest = existing(stored.clone());
    let resolved = wishes().resolve(Some(&manifest), &Config::default(), both);
    assert_eq!(resolved.unwrap(), stored);
}

#[test]
fn token_vectors_are_cut_where_no_head_was_trained() {
    let mut wishes = wishes();
    wishes.stages = vec![Stage::Sparse, Stage::Colbert];
    let resolve = |dimensions, token_dimensions| {
        let encoder = EncoderInfo {
            dimensions,
            token_dimensions,
            ..encoder(&[])
        };
        wishes.resolve(None, &Config::default(), alone(&encoder))
    };
    for (dimensions, token_dimensions, stored) in
        [(384, 384, 96), (64, 64, 64), (384, 64, 64), (768, 128, 128)]
    {
        let settings = resolve(dimensions, token_dimensions).unwrap();
        settings.check().unwrap();
        assert_eq!((&settings.encoder, &settings.dense), (&None, &None));
        assert_eq!(settings.passage_tokens, 256);
        let colbert = settings.colbert.unwrap();
        assert_eq!(colbert.dimensions, stored);
        assert_eq!(
            colbert.rotated,
            stored < token_dimensions.try_into().unwrap()
        );
        assert_eq!((colbert.fingerprint.as_str(), colbert.pooling), ("f1", 1));
    }
    let error = resolve(384, 0).unwrap_err();
    assert_eq!(error.fields()[0].path, "settings.stages");
    assert!(error.to_string().contains("bundle test"), "{error}");
    // Vectors of two encoders do not mix here either.
    let manifest = existing(resolve(384, 384).unwrap());
    let other = EncoderInfo {
        fingerprint: "f2".into(),
        ..encoder(&[])
    };
    let outcome = wishes.resolve(Some(&manifest), &Config::default(), alone(&other));
    assert!(matches!(outcome, Err(IndexError::EncoderDiffers { .. })));
}

#[test]
fn all_mistakes_are_found_at_once() {
    let mut wishes = wishes();
    wishes.shards = Some(0);
    wishes.stages = vec![Stage::Rescore];
    wishes.passage_tokens = Some(15);
    wishes.overlap_tokens = Some(8);
    wishes.language = Some("klingon".into());
    let paths: Vec<String> = wishes
        .mistakes()
        .into_iter()
        .map(|mistake| mistake.path)
        .collect();
    let expected = [
        "settings.shards",
        "settings.stages",
        "settings.stages",
        "settings.passage_tokens",
        "settings.overlap_tokens",
        "settings.language",
    ];
    assert_eq!(paths, expected);
}
