//! `serve --target cross-encoder` with bundles that it cannot serve.

use crate::process::{Finemesh, models_are_here};

/// How it ends with these lines of the section `models`.
fn refusal(mesh: &Finemesh, models: &str) -> (i32, String) {
    let lines = format!("[server]\naddress = \"127.0.0.1:0\"\n[models]\n{models}");
    let config = mesh.file("reader.toml", &lines);
    let config = config.to_str().unwrap();
    mesh.fails(&["--config", config, "serve", "--target", "cross-encoder"])
}

#[test]
fn own_models_without_a_reader_leave_it_nothing_to_serve() {
    let mesh = Finemesh::new();
    let (library, folder) = (mesh.file("libonnxruntime.so", ""), mesh.folder());
    let own = format!("onnxruntime_library = {library:?}\nencoder_bundle = {folder:?}\n");
    let (code, message) = refusal(&mesh, &own);
    assert_eq!(code, 64, "{message}");
    assert!(
        message.contains("models.reranker_bundle: a cross-encoder needs one"),
        "{message}"
    );
    let (code, message) = refusal(&Finemesh::new(), "reranker_bundle = \"/does/not/exist\"\n");
    assert_eq!(code, 64, "{message}");
    assert!(
        message.contains("models.reranker_bundle: /does/not/exist"),
        "{message}"
    );
}

#[test]
fn an_encoders_bundle_is_refused_by_its_task() {
    if !models_are_here() {
        return;
    }
    let mesh = Finemesh::new();
    let models = mesh.json(&["models", "list", "--json"]);
    let folder = &models["encoder"]["folder"];
    let (code, message) = refusal(&mesh, &format!("reranker_bundle = {folder}\n"));
    assert_eq!(code, 1, "{message}");
    assert!(
        message.contains("task: is encode, must be rerank here"),
        "{message}"
    );
}

#[test]
fn a_runtime_that_knows_no_graphics_card_is_refused_before_anything_is_served() {
    let (code, message) = refusal(&Finemesh::new(), "execution_provider = \"tpu\"\n");
    assert_eq!(code, 64, "{message}");
    assert!(
        message.contains("models.execution_provider") && message.contains("`cpu` or `cuda`"),
        "{message}"
    );
    if !models_are_here() {
        return;
    }
    let (code, message) = refusal(&Finemesh::new(), "execution_provider = \"cuda\"\n");
    assert_eq!(code, 1, "{message}");
    assert!(
        message.contains("this ONNX Runtime was built without CUDA"),
        "{message}"
    );
}
