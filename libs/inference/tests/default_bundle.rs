//! The default bundle, from the pull to the vectors. Needs the models: see `models`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod linked_bundle;
mod models;

use std::fs;
use std::time::{Duration, Instant};

use inference::pull::{Installed, PullOptions, pull};
use inference::{
    Bundle, BundleEncoder, CrossEncoder, EncodeError, EncodeJob, EncoderOptions, ExecutionProvider,
    GoldenError, LoadError, MakeOptions, OnnxRuntime, Pair, Priority, RuntimeError, Task,
    TextEncoder, make_bundle, split_passages,
};
use linked_bundle::{edit, linked_copy};
use models::installed_or_skip;
use search_core::Criticality;

/// Indexes name the bundle that made their vectors: another fingerprint makes them unusable.
const FINGERPRINT: &str = "c19aea0cf7339d1bbaf7dd3488eec0880780a4c7916b98947e617cb66de936e5";

const OPTIONS: EncoderOptions = EncoderOptions {
    threads: 2,
    batch_tokens: 256,
    queue_texts: 64,
};

fn open(installed: &Installed) -> BundleEncoder {
    BundleEncoder::open(&runtime(installed), &installed.encoder_bundle, OPTIONS).unwrap()
}

fn runtime(installed: &Installed) -> OnnxRuntime {
    OnnxRuntime::on_cpu(&installed.ort_library)
}

fn job(texts: &[&str]) -> EncodeJob {
    EncodeJob {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        task: Task::Passage,
        with_token_vectors: false,
        priority: Priority::Interactive,
        criticality: Criticality::Critical,
        deadline: None,
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn it_encodes_what_belongs_together_close_together() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let encoder = open(&installed);
    assert_eq!(
        (
            encoder.info().dimensions,
            encoder.info().token_dimensions,
            encoder.info().max_tokens
        ),
        (384, 384, 256)
    );
    let texts = [
        "how do I set a deadline on a gRPC request",
        "a timeout for a call",
        "the cat sat on the mat",
    ];
    let encoded = encoder
        .encode(EncodeJob {
            with_token_vectors: true,
            ..job(&texts)
        })
        .await
        .unwrap();
    let rows: Vec<&[f32]> = encoded.vectors.chunks_exact(384).collect();
    assert!(rows.iter().all(|row| (dot(row, row) - 1.0).abs() < 1e-5));
    assert!(dot(rows[0], rows[1]) > dot(rows[0], rows[2]) + 0.2);
    let token_vectors = encoded.token_vectors.unwrap();
    assert_eq!(
        encoded
            .tokens
            .iter()
            .map(|&tokens| tokens as usize * 384)
            .collect::<Vec<_>>(),
        token_vectors.iter().map(Vec::len).collect::<Vec<_>>()
    );
    assert!((dot(&token_vectors[2][..384], &token_vectors[2][..384]) - 1.0).abs() < 1e-5);
    assert_eq!(encoded.truncated_texts, 0);
}

#[tokio::test]
async fn a_text_has_one_vector_whatever_it_is_batched_with() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let encoder = open(&installed);
    let texts: Vec<String> = (1..50)
        .map(|words| "segment manifest snapshot ".repeat(words))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = encoder.encode(job(&texts)).await.unwrap();
    for (text, row) in texts
        .iter()
        .zip(together.vectors.chunks_exact(384))
        .step_by(7)
    {
        let alone = encoder.encode(job(&[text])).await.unwrap();
        let largest = alone
            .vectors
            .iter()
            .zip(row)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1e-5, "{largest}");
    }
    assert!(
        together.compute > Duration::ZERO
            && encoder.stats().model_time <= encoder.stats().busy_time
    );
}

#[tokio::test]
async fn long_texts_are_cut_and_counted_and_bad_ones_refused_by_place() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let encoder = open(&installed);
    let long = "immutable segments ".repeat(400);
    let encoded = encoder.encode(job(&["short", &long])).await.unwrap();
    assert_eq!((encoded.tokens[1], encoded.truncated_texts), (256, 1));
    let error = encoder.encode(job(&["fine", ""])).await.unwrap_err();
    assert_eq!(error.to_string(), "texts[1]: is empty");
    let error = encoder.encode(job(&["x"; 65])).await.unwrap_err();
    assert!(matches!(
        error,
        EncodeError::QueueFull {
            limit_texts: 64,
            ..
        }
    ));
    let late = EncodeJob {
        deadline: Some(Instant::now()),
        ..job(&["too late"])
    };
    assert!(matches!(
        encoder.encode(late).await,
        Err(EncodeError::DeadlineExceeded)
    ));
    let none = encoder.encode(job(&[])).await.unwrap();
    assert!(none.vectors.is_empty() && none.tokens.is_empty());
    let blank = encoder.encode(job(&["  \u{200b} "])).await.unwrap();
    assert_eq!(blank.vectors.len(), 384);
}

#[test]
fn spans_are_the_places_of_the_tokens_and_passages_fit_the_model() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let encoder = open(&installed);
    let text = "Naïve 東京 reranking";
    let spans = encoder.token_spans(text).unwrap();
    let tokens: Vec<&str> = spans.iter().map(|span| &text[span.clone()]).collect();
    assert_eq!(tokens, ["Naïve", "東", "京", "re", "rank", "ing"]);

    let text =
        "The orchestrator's unbelievably long-winded explanation of tokenization. ".repeat(80);
    let spans = encoder.token_spans(&text).unwrap();
    let passages = split_passages(&text, &spans, 200, 32);
    assert!(passages.len() > 4);
    for passage in passages {
        assert!(encoder.token_spans(&text[passage]).unwrap().len() <= 200);
    }
}

#[test]
fn a_second_pull_is_instant_and_the_fingerprint_is_the_same_everywhere() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let cache_dir = installed.encoder_bundle.parent().unwrap();
    let again = PullOptions {
        python: "/no/such/python3".into(),
        ..PullOptions::new(cache_dir)
    };
    assert_eq!(
        pull(&again, &mut |_| panic!("nothing is left to do")).unwrap(),
        installed
    );
    assert!(installed.encoder_bundle.join("MODEL_CARD.md").is_file());
    assert!(
        installed
            .ort_library
            .with_file_name("ThirdPartyNotices.txt")
            .is_file()
    );
    assert_eq!(
        Bundle::read(&installed.encoder_bundle)
            .unwrap()
            .fingerprint(),
        FINGERPRINT
    );
}

#[test]
fn what_does_not_come_out_as_promised_is_not_served() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir_in(installed.encoder_bundle.parent().unwrap()).unwrap();
    let refused = |name: &str, file: &str, change: &dyn Fn(String) -> String| {
        let bundle = folder.path().join(name);
        linked_copy(&installed.encoder_bundle, &bundle);
        edit(&bundle.join(file), change);
        BundleEncoder::open(&runtime(&installed), &bundle, OPTIONS)
            .err()
            .unwrap()
    };
    let error = refused("tokens", "tokenizer.json", &|json| {
        json.replace("\"lowercase\":true", "\"lowercase\":false")
    });
    assert!(
        matches!(&error, LoadError::Golden(GoldenError::Tokens { .. })),
        "{error}"
    );
    let error = refused("values", "golden.json", &|json| {
        json.replacen("\"vector\":[", "\"vector\":[0.5,", 1)
    });
    assert!(
        error
            .to_string()
            .contains("golden.json: entries[0].vector: has 385 values"),
        "{error}"
    );
    let error = refused("tolerance", "bundle.json", &|json| {
        json.replace("0.00001", "0.000000001")
    });
    assert!(
        matches!(&error, LoadError::Golden(GoldenError::Values { .. })),
        "{error}"
    );
    let error = refused("widths", "bundle.json", &|json| {
        json.replace("\"token_dimensions\": 384", "\"token_dimensions\": 96")
    });
    assert!(
        error
            .to_string()
            .contains("golden.json: entries[0].token_vectors"),
        "{error}"
    );
    let error = refused("output", "bundle.json", &|json| {
        json.replace("\"sentence_embedding\"", "\"pooler_output\"")
    });
    assert!(
        error
            .to_string()
            .contains("the graph gives sentence_embedding, token_embeddings"),
        "{error}"
    );
    let error = refused("graph", "model.onnx", &|_| "no graph".into());
    assert!(matches!(&error, LoadError::Graph { .. }), "{error}");
    let error = BundleEncoder::open(
        &OnnxRuntime::on_cpu("/no/libonnxruntime.so"),
        &installed.encoder_bundle,
        OPTIONS,
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("models pull"), "{error}");
}

#[test]
fn a_runtime_without_cuda_says_so_for_every_kind_of_model() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let on_cuda = OnnxRuntime {
        provider: ExecutionProvider::Cuda,
        ..runtime(&installed)
    };
    let encoder = BundleEncoder::open(&on_cuda, &installed.encoder_bundle, OPTIONS);
    let reranker = CrossEncoder::open(&on_cuda, &installed.reranker_bundle, 1);
    for error in [encoder.err().unwrap(), reranker.err().unwrap()] {
        let LoadError::Runtime(RuntimeError::WithoutCuda(library)) = &error else {
            panic!("{error}");
        };
        assert_eq!(*library, installed.ort_library);
        assert!(
            error.to_string().contains("models.execution_provider"),
            "{error}"
        );
    }
    // And the processor still computes.
    open(&installed);
}

#[tokio::test]
async fn an_exported_model_becomes_a_bundle_by_its_own_files() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir_in(installed.encoder_bundle.parent().unwrap()).unwrap();
    let exported = folder.path().join("exported");
    fs::create_dir_all(exported.join("1_Pooling")).unwrap();
    fs::create_dir_all(exported.join("onnx")).unwrap();
    for (name, at) in [
        ("model.onnx", "onnx/model.onnx"),
        ("model.safetensors", "onnx/model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
    ] {
        fs::hard_link(installed.encoder_bundle.join(name), exported.join(at)).unwrap();
    }
    fs::write(
        exported.join("sentence_bert_config.json"),
        r#"{"max_seq_length": 100, "do_lower_case": true}"#,
    )
    .unwrap();
    fs::write(
        exported.join("config_sentence_transformers.json"),
        r#"{"prompts": {"query": "query: "}}"#,
    )
    .unwrap();
    let options = MakeOptions {
        runtime: runtime(&installed),
        name: None,
    };
    let out = folder.path().join("made");
    let made = make_bundle(&exported, &out, &options).unwrap();
    let description = made.bundle.description();
    assert_eq!(
        (
            description.name.as_str(),
            description.max_tokens,
            description.dimensions
        ),
        ("exported", 100, 384)
    );
    assert_eq!(
        (
            description.prompts.query.as_str(),
            description.lowercase,
            description.pad_token_id
        ),
        ("query: ", true, 0)
    );
    assert!(made.notes.is_empty(), "{:?}", made.notes);

    let served = BundleEncoder::open(&runtime(&installed), &out, OPTIONS).unwrap();
    let query = EncodeJob {
        task: Task::Query,
        ..job(&["set a deadline"])
    };
    let prompted = open(&installed)
        .encode(job(&["query: set a deadline"]))
        .await
        .unwrap();
    assert_eq!(
        served.encode(query).await.unwrap().vectors,
        prompted.vectors
    );
    assert_eq!(served.token_spans("ÀB İx").unwrap().last(), Some(&(4..7)));

    assert!(
        make_bundle(&exported, &out, &options)
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
    fs::write(
        exported.join("modules.json"),
        r#"[{"type": "sentence_transformers.models.Dense"}]"#,
    )
    .unwrap();
    make_bundle(&exported, &folder.path().join("other"), &options).unwrap();
    fs::remove_file(exported.join("tokenizer.json")).unwrap();
    let error = make_bundle(&exported, &folder.path().join("third"), &options).unwrap_err();
    assert!(
        error.to_string().contains("tokenizer.json: missing"),
        "{error}"
    );
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn the_default_cross_encoder_reads_a_passage_to_its_end() {
    let Some(installed) = installed_or_skip() else {
        return;
    };
    let mut reader =
        CrossEncoder::open(&runtime(&installed), &installed.reranker_bundle, 1).unwrap();
    assert_eq!(reader.info().name, "minilm-l3-rerank");
    let beside = "The river bends twice below the old mill, and the path follows it. ".repeat(12);
    let answer = "Each shard of an index is searched by a thread of its own.";
    let late = format!("{beside}{answer}");
    let query = "how is a shard searched?";
    let scores = reader.score(query, &[answer, &late, &beside]).unwrap();
    assert!(scores[0] > scores[1] && scores[1] > scores[2], "{scores:?}");

    // Beyond what it reads at once, in windows.
    let far = format!("{}{answer}", beside.repeat(5));
    let beginning = reader.score(query, &[&far]).unwrap()[0];
    let (reads, mut scorers) = reader.into_parts();
    let windows = reads.read(query, &[far], 16).unwrap().concat();
    let windows: Vec<&Pair> = windows.iter().collect();
    let logits = scorers[0].score(&windows).unwrap().logits;
    let (last, others) = logits.split_last().unwrap();
    assert!(others.len() > 2, "{logits:?}");
    assert!(others.iter().all(|other| last > other), "{logits:?}");
    assert!(*last > beginning + 1.0, "{logits:?} and {beginning}");
}
