//! Replicas that come and go while queries are answered.

use crate::fakes::{Fake, Mesh, config, dense, encoder, ids, request, small, sparse_named, stage};
use orchestrator::Peers;
use search_proto::search::{StageReason, StageStatus};
use service_kit::{Channels, MeshChannel};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::Code;

/// Who is told of the sparse retrievers that there are, and retrievers of these names.
struct Scaled {
    found: watch::Sender<Arc<[MeshChannel]>>,
    retrievers: Vec<MeshChannel>,
}

impl Scaled {
    /// So many of them are there from now on, the first ones or the last ones.
    fn to(&self, range: std::ops::Range<usize>) {
        self.found.send_replace(self.retrievers[range].into());
    }
}

async fn scaled(names: &[&str], describe_interval_ms: u64) -> (Mesh, Scaled) {
    let config = config(1000, |raw| raw.describe_interval_ms = describe_interval_ms);
    let mut scaled = None;
    let mesh = Mesh::with_config(small(), config, |fake: Fake| {
        let retrievers = names
            .iter()
            .map(|name| sparse_named(name, fake.clone()))
            .collect();
        let (found, now) = watch::channel(Arc::from([]));
        scaled = Some(Scaled { found, retrievers });
        Peers {
            encoder: vec![encoder(fake.clone())].into(),
            dense: vec![dense(fake)].into(),
            sparse: Channels::from(now),
            ..Peers::default()
        }
    });
    (mesh.await, scaled.unwrap())
}

#[tokio::test]
async fn a_stage_is_scaled_while_queries_are_answered() {
    let (mesh, scaled) = scaled(&["a", "b", "c"], 1).await;
    scaled.to(0..1);
    mesh.app.poke().await;
    let answered = async {
        for _ in 0..300 {
            let answer = mesh.ask(request("hybrid")).await.unwrap();
            assert!(!answer.degraded);
            assert_eq!(ids(&answer).len(), 5);
        }
    };
    let scaling = async {
        for range in [0..3, 1..3, 2..3, 0..3, 0..1] {
            scaled.to(range);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            mesh.app.poke().await;
        }
    };
    tokio::join!(answered, scaling);
}

#[tokio::test]
async fn a_name_without_addresses_is_no_replica_for_now() {
    let (mesh, scaled) = scaled(&["a"], 3_600_000).await;
    let status = mesh.ask(request("sparse")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    scaled.to(0..1);
    mesh.app.poke().await;
    assert_eq!(
        ids(&mesh.ask(request("sparse")).await.unwrap()),
        ["a", "d", "c"]
    );
}

#[tokio::test]
async fn a_late_stage_whose_name_has_no_address_is_unavailable_and_not_unknown() {
    let mesh = Mesh::with_config(small(), config(1000, |_| {}), |fake: Fake| Peers {
        encoder: vec![encoder(fake.clone())].into(),
        dense: vec![dense(fake.clone())].into(),
        sparse: vec![sparse_named("a", fake)].into(),
        cross_encoder: Channels::from(watch::channel(Arc::from([])).1),
        ..Peers::default()
    })
    .await;
    let answer = mesh.ask(request("full")).await.unwrap();
    let report = stage(&answer, "rerank");
    assert_eq!(
        (report.status(), report.reason()),
        (StageStatus::Failed, StageReason::Unavailable)
    );
}
