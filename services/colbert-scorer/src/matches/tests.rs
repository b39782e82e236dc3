use std::cell::Cell;

use segment::colbert::{ColbertWriter, TokenCoder};
use segment::manifest::ColbertSettings;
use segment::store::PartFiles;

use super::*;
use crate::query::QueryTokens;

/// Of four dimensions two are stored.
fn settings() -> ColbertSettings {
    ColbertSettings {
        fingerprint: "f00d".to_owned(),
        token_dimensions: 4,
        dimensions: 2,
        rotated: false,
        rotation_sample: 0,
        pooling: 1,
    }
}

fn coder() -> TokenCoder {
    TokenCoder::new(&settings(), None).unwrap()
}

fn part(passages: &[&[f32]]) -> ColbertPart {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ColbertWriter::new(folder.path(), coder().layout()).unwrap();
    for tokens in passages {
        writer.push(&coder().pack(tokens).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let files = PartFiles::of_folder(folder.path()).unwrap();
    ColbertPart::open(&files, &settings(), passages.len() as u32).unwrap()
}

fn query(vectors: &[f32]) -> SeparateTokens {
    let tokens = QueryTokens {
        width: 4,
        vectors: vectors.to_vec(),
        encoder_fingerprint: "f00d".to_owned(),
    };
    tokens.code_separately(&coder()).unwrap()
}

#[test]
fn a_token_that_is_not_stored_keeps_its_place_and_matches_by_nothing() {
    let part = part(&[&[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], &[]]);
    let query = query(&[1., 0., 0., 0., 0., 0., 1., 1., 0., 3., 0., 0.]);
    let asked = [0, 1, 2].map(|ordinal| Address::new(0, ordinal));
    let found = matches(&query, &asked, |_| Some(&part), || Ok(())).unwrap();
    let tokens: Vec<usize> = found[0].iter().map(|best| best.token).collect();
    assert_eq!(tokens, [1, 0, 0]);
    let cosines: Vec<f32> = found[0].iter().map(|best| best.cosine).collect();
    assert_eq!(cosines[1].to_bits(), 0);
    assert!(
        [0, 2]
            .iter()
            .all(|token| (cosines[*token] - 1.0).abs() < 0.01)
    );
    // A passage without tokens, and one that is not there.
    assert_eq!(found[1..], [vec![], vec![]]);
}

#[test]
fn matching_stops_when_it_is_told_to() {
    let part = part(&[&[1.0; 8]]);
    let long = query(&[1.0; 4 * 100]);
    let looks = Cell::new(0);
    let late = || {
        looks.set(looks.get() + 1);
        match looks.get() {
            1 | 2 => Ok(()),
            _ => Err(ComputeError::DeadlineExceeded),
        }
    };
    let stopped = matches(&long, &[Address::new(0, 0)], |_| Some(&part), late);
    assert!(matches!(
        stopped,
        Err(Error::Compute(ComputeError::DeadlineExceeded))
    ));
    assert_eq!(
        looks.get(),
        3,
        "it looks between parts of one passage's query too"
    );
}
