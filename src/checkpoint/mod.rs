//! The checkpoint on disk: manifests, and the files that they name.

pub(crate) mod dead;
mod file;
pub(crate) mod keys;
pub(crate) mod manifest;
