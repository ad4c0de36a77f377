//! The checkpoint on disk: manifests, and the files that they name.

pub(crate) mod dead;
pub(crate) mod file;
pub(crate) mod keys;
pub(crate) mod manifest;
