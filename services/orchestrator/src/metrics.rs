//! What is counted of the calls to the stages. Labels are bounded: the service, and what kind of call it is.

use crate::error::Service;
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

/// Why a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// Something is wanted of the service.
    First,
    /// The first one takes long.
    Hedge,
    /// The first one has failed.
    Retry,
}

impl CallKind {
    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Hedge => "hedge",
            Self::Retry => "retry",
        }
    }
}

/// Counters of one service.
#[derive(Clone, Debug)]
pub(crate) struct CallCounters {
    service: KeyValue,
    calls: Counter<u64>,
    hedges_won: Counter<u64>,
    refused: Counter<u64>,
    ejections: Counter<u64>,
}

impl CallCounters {
    pub(crate) fn new(service: Service) -> Self {
        let meter = global::meter("orchestrator");
        let counter = |name, what| meter.u64_counter(name).with_description(what).build();
        Self {
            service: KeyValue::new("service", service.name()),
            calls: counter(
                "orchestrator.calls",
                "Calls to a service; all but the first ones are extra",
            ),
            hedges_won: counter(
                "orchestrator.hedges_won",
                "Hedges that answered before the first call",
            ),
            refused: counter(
                "orchestrator.extra_calls_refused",
                "Hedges and retries that the budget did not allow",
            ),
            ejections: counter(
                "orchestrator.ejections",
                "Replicas left out for a time, as their calls failed or took long",
            ),
        }
    }

    pub(crate) fn call(&self, kind: CallKind) {
        let kind = KeyValue::new("kind", kind.name());
        self.calls.add(1, &[self.service.clone(), kind]);
    }

    pub(crate) fn win_hedge(&self) {
        self.add_to(&self.hedges_won);
    }

    pub(crate) fn refuse(&self) {
        self.add_to(&self.refused);
    }

    pub(crate) fn eject(&self) {
        self.add_to(&self.ejections);
    }

    fn add_to(&self, counter: &Counter<u64>) {
        counter.add(1, std::slice::from_ref(&self.service));
    }
}
