//! One file, or one folder, per command.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod health;
pub(crate) mod index;
mod judged;
pub(crate) mod models;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod tune;
