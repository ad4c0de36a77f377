//! The HTTP contract (docs: the table of calls), over real sockets: rows that the first server's clients lean on, with status
//! and field names; what happens to bad input; tenants apart from each other; beginning and end of the process.

mod as_of;
mod back_pressure;
mod backups;
mod bad_input;
mod bench;
mod binary;
mod changes;
mod configuration;
mod configuring;
mod connections;
mod contract;
mod deployment;
mod dormant;
mod events;
mod export_from_server;
mod import;
mod import_faiss;
#[cfg(feature = "parquet")]
mod import_parquet;
mod index_types;
mod logs;
mod looking;
mod metrics;
mod offline;
mod openapi;
mod process;
mod program;
mod quotas;
mod reads;
mod roles;
mod support;
mod tenants;
mod versions;
mod writes;
