//! What extra calls are paid from: each first call pays in a tenth of what an extra one costs. So many calls more is the most that hedges
//! and retries add to a service's load, when all of its calls fail too.

use crate::metrics::CallKind;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a first call pays in.
const DEPOSIT: u32 = 1;
/// What an extra call costs: one for ten.
const PRICE: u32 = 10;
/// Before anything is paid in: one of two replicas may be dead from the start.
const INITIAL: u32 = 10 * PRICE;
/// A replica that dies fails all calls that it has in flight at once, some dozens of a busy one; each may be paid from what is saved.
const MOST_SAVED: u32 = 50 * PRICE;
/// Without its hedge a call is late; without its retry it has failed. When all get slower at once, hedges would leave nothing.
const KEPT_FOR_RETRIES: u32 = 10 * PRICE;

/// Extra calls that one service may be sent.
#[derive(Debug)]
pub(super) struct Budget {
    saved: AtomicU32,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self {
            saved: AtomicU32::new(INITIAL),
        }
    }

    /// A first call is made.
    pub(super) fn deposit(&self) {
        let more = |saved: u32| (saved + DEPOSIT).min(MOST_SAVED);
        self.saved
            .update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether an extra call may be made; it is paid for then.
    pub(super) fn withdraw(&self, kind: CallKind) -> bool {
        let kept = match kind {
            CallKind::Hedge => KEPT_FOR_RETRIES,
            CallKind::First | CallKind::Retry => 0,
        };
        let less = |saved: u32| saved.checked_sub(PRICE).filter(|left| *left >= kept);
        self.saved
            .try_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_first_calls_pay_for_an_extra_one() {
        let budget = Budget::new();
        while budget.withdraw(CallKind::Retry) {}
        for _ in 0..PRICE {
            assert!(!budget.withdraw(CallKind::Retry));
            budget.deposit();
        }
        assert!(budget.withdraw(CallKind::Retry));
        assert!(!budget.withdraw(CallKind::Retry));
    }

    #[test]
    fn no_more_is_saved_than_a_burst_and_hedges_leave_some_of_it() {
        let budget = Budget::new();
        for _ in 0..100_000 {
            budget.deposit();
        }
        let burst = |kind| (0..100_000).filter(|_| budget.withdraw(kind)).count();
        assert_eq!([CallKind::Hedge, CallKind::Retry].map(burst), [40, 10]);
    }

    fn any_kind() -> impl Strategy<Value = CallKind> {
        prop_oneof![
            Just(CallKind::First),
            Just(CallKind::Hedge),
            Just(CallKind::Retry)
        ]
    }

    proptest! {
        #[test]
        fn no_more_is_spent_than_was_paid_in(kinds in prop::collection::vec(any_kind(), 0..2000)) {
            let budget = Budget::new();
            let (mut first, mut extra) = (0, 0);
            for kind in kinds {
                if kind == CallKind::First {
                    budget.deposit();
                    first += 1;
                } else {
                    extra += u32::from(budget.withdraw(kind));
                }
                prop_assert!(extra * PRICE <= INITIAL + first * DEPOSIT);
            }
        }
    }
}
