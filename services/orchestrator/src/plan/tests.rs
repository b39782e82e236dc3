use super::*;

fn pipeline(fusion: Option<Fusion>) -> Pipeline {
    Pipeline {
        name: "hybrid".to_owned(),
        retrieve: Retrieve {
            legs: vec![Leg::Sparse, Leg::Dense],
            depth: 1000,
        },
        fusion,
        head: Vec::new(),
        time: Duration::from_secs(1),
        budget: Budget::new(Vec::new(), Duration::ZERO),
        required: Vec::new(),
        routing: Routing::default(),
    }
}

fn min_max(alpha: f64) -> Pipeline {
    pipeline(Some(Fusion {
        method: Method::MinMax,
        alpha,
    }))
}

#[test]
fn the_request_changes_the_pipeline() {
    let changes = FusionOverride {
        alpha: Some(0.2),
        ..FusionOverride::default()
    };
    let fusion = resolve_fusion(&min_max(0.7), changes).unwrap().unwrap();
    assert_eq!(
        fusion,
        Fusion {
            method: Method::MinMax,
            alpha: 0.2
        }
    );
    let z_score = FusionOverride {
        method: Some(MethodName::ZScore),
        ..FusionOverride::default()
    };
    let fusion = resolve_fusion(&min_max(0.7), z_score).unwrap().unwrap();
    assert_eq!(
        fusion,
        Fusion {
            method: Method::ZScore,
            alpha: 0.7
        }
    );
}

#[test]
fn rrf_starts_from_equal_weights() {
    let rrf = FusionOverride {
        method: Some(MethodName::Rrf),
        ..FusionOverride::default()
    };
    let fusion = resolve_fusion(&min_max(0.7), rrf).unwrap().unwrap();
    assert_eq!(
        fusion,
        Fusion {
            method: Method::Rrf { rank_constant: 60 },
            alpha: 0.5
        }
    );
    let own = pipeline(Some(Fusion {
        method: Method::Rrf { rank_constant: 5 },
        alpha: 0.7,
    }));
    let fusion = resolve_fusion(&own, rrf).unwrap().unwrap();
    assert_eq!(
        fusion,
        Fusion {
            method: Method::Rrf { rank_constant: 5 },
            alpha: 0.7
        }
    );
}

#[test]
fn changes_without_effect_are_refused() {
    let constant = FusionOverride {
        rank_constant: Some(3),
        ..FusionOverride::default()
    };
    assert_eq!(
        resolve_fusion(&min_max(0.5), constant).unwrap_err().path,
        "fusion.rank_constant"
    );
    let alpha = FusionOverride {
        alpha: Some(0.5),
        ..FusionOverride::default()
    };
    assert_eq!(
        resolve_fusion(&pipeline(None), alpha).unwrap_err().path,
        "fusion"
    );
    assert_eq!(
        resolve_fusion(&pipeline(None), FusionOverride::default()),
        Ok(None)
    );
}

#[test]
fn stages_are_named_in_the_order_of_the_funnel() {
    let names = ["encode", "sparse", "dense", "complete", "fuse", "fetch"];
    assert_eq!(min_max(0.5).stage_names(), names);
}

#[test]
fn a_stage_of_the_head_is_named_with_the_encoding_that_it_needs() {
    let part = |stage| HeadPart {
        stage,
        window: 10,
        weight: 0.5,
        floor: 1,
        gate_margin: None,
    };
    let head = [
        HeadStage::Vectors(VectorStage::Rescore),
        HeadStage::Vectors(VectorStage::LateInteraction),
        HeadStage::Rerank,
    ];
    let mut pipeline = pipeline(None);
    pipeline.head = head.map(part).to_vec();
    let later = ["rescore", "late_interaction", "rerank", "fetch"];
    let both = ["encode", "encode_rescore", "sparse", "dense"];
    assert_eq!(pipeline.stage_names(), [both, later].concat());
    pipeline.retrieve.legs = vec![Leg::Sparse];
    let sparse = ["encode_rescore", "encode_late_interaction", "sparse"];
    assert_eq!(pipeline.stage_names(), [&sparse[..], &later].concat());
}
