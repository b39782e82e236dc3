//! What asking took, and what of the answers had to be mended.

use std::ops::AddAssign;

use crate::ranking::Repairs;

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Requests that were sent, those that were tried again included.
    pub(crate) requests: u32,
    /// Prompts whose answers were at hand.
    pub(crate) cached_answers: u32,
    pub(crate) tokens: Tokens,
    pub(crate) repairs: Repairs,
    /// Answers that say nothing.
    pub(crate) unusable_answers: u32,
}

/// Tokens of prompts and of their answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
}

impl Tokens {
    pub(crate) fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.cached_answers += other.cached_answers;
        self.tokens.prompt = self.tokens.prompt.saturating_add(other.tokens.prompt);
        self.tokens.completion = self
            .tokens
            .completion
            .saturating_add(other.tokens.completion);
        self.repairs.missing += other.repairs.missing;
        self.repairs.duplicate += other.repairs.duplicate;
        self.repairs.foreign += other.repairs.foreign;
        self.unusable_answers += other.unusable_answers;
    }
}
