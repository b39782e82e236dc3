//! One file per command.

pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod index;
pub(crate) mod models;
pub(crate) mod search;
pub(crate) mod serve;
