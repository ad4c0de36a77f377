//! Which indices of a data directory a command is about, and how it tells of each.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Failure, print_line};
use crate::engine::Survey;
use crate::error::Error;
use crate::io::os::OsIo;
use crate::types::{IndexId, TenantId};

/// Which indices, and how what was found or done is told.
#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Where the data is. It must be there.
    #[arg(long, value_name = "DIR", env = "FAISS_DATA_DIR", default_value = "./data")]
    pub(super) data_dir: PathBuf,
    /// Only the indices of this tenant.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant))]
    tenant: Option<TenantId>,
    /// Only this index.
    #[arg(long, value_name = "ID")]
    index: Option<IndexId>,
    /// One JSON object a line, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// An index, and what is told of it, as a line of JSON has it.
#[derive(Serialize)]
struct Line<'a, T> {
    tenant: &'a str,
    index: IndexId,
    #[serde(flatten)]
    told: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Selection {
    pub(super) fn has_tenant(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
    }

    pub(super) fn has_index(&self, index: IndexId) -> bool {
        self.index.is_none_or(|wanted| wanted == index)
    }

    /// Looks at the directory, and writes nothing to it. `instead`: what a server that has it is asked for.
    ///
    /// # Errors
    /// A server has it, or it cannot be read.
    pub(super) fn survey(&self, instead: &str) -> Result<Survey, Failure> {
        Survey::open(Arc::new(OsIo), &self.data_dir).map_err(|error| self.cannot_open(&error, instead))
    }

    pub(super) fn cannot_open(&self, error: &Error, instead: &str) -> Failure {
        match error {
            Error::Conflict(why) => Failure::new(format!("{why}; {instead}")),
            error => Failure::new(format!("--data-dir {}: {error}", self.data_dir.display())),
        }
    }

    /// Calls `each` for every index that is meant, and prints what it gives: as JSON, or by `text`. One that fails does not keep the others from it, nor does a
    /// tenant whose directory cannot be read.
    ///
    /// # Errors
    /// No index is meant, or some failed.
    pub(super) fn for_each<T: Serialize>(
        &self,
        survey: &Survey,
        mut each: impl FnMut(&TenantId, IndexId) -> Result<T, Error>,
        text: impl Fn(&TenantId, IndexId, &T) -> String,
    ) -> Result<(), Failure> {
        self.walk(survey, |told, tenant, index| told.tell(tenant, index, each(tenant, index), &text))
    }

    /// The same, where `each` prints what there is to print itself, and tells how it went.
    pub(super) fn walk(
        &self,
        survey: &Survey,
        mut each: impl FnMut(&mut Told<'_>, &TenantId, IndexId) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let tenants = survey.tenants().map_err(|error| Failure::new(error.to_string()))?;
        let mut told = Told::new(self);
        for tenant in tenants.iter().filter(|tenant| self.has_tenant(tenant)) {
            match survey.indices(tenant) {
                Ok(indices) => {
                    for index in indices.into_iter().filter(|&index| self.has_index(index)) {
                        each(&mut told, tenant, index)?;
                    }
                }
                Err(error) => told.unreadable(tenant, &error),
            }
        }
        told.end()
    }

    /// A line on the terminal that tells how far it is, where somebody looks at one: of `length` steps, or of bytes.
    pub(super) fn progress(&self, length: u64, template: &str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        ProgressBar::new(length)
            .with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// Tells of indices, and counts them.
pub(super) struct Told<'a> {
    selection: &'a Selection,
    found: u32,
    failed: u32,
    unreadable: u32,
}

impl<'a> Told<'a> {
    pub(super) fn new(selection: &'a Selection) -> Self {
        Self { selection, found: 0, failed: 0, unreadable: 0 }
    }

    /// Prints how it went with an index.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn tell<T: Serialize>(
        &mut self,
        tenant: &TenantId,
        index: IndexId,
        outcome: Result<T, Error>,
        text: impl Fn(&TenantId, IndexId, &T) -> String,
    ) -> Result<(), Failure> {
        self.found += 1;
        self.failed += u32::from(outcome.is_err());
        let line = match &outcome {
            _ if self.selection.json => {
                let error = outcome.as_ref().err().map(ToString::to_string);
                let line = Line { tenant: tenant.as_str(), index, told: outcome.as_ref().ok(), error };
                serde_json::to_string(&line).map_err(|error| Failure::new(error.to_string()))?
            }
            Ok(told) => text(tenant, index, told),
            Err(error) => format!("{tenant} {index}\n  failed: {error}"),
        };
        print_line(&line)
    }

    /// An index of which everything is printed already.
    pub(super) fn printed(&mut self) {
        self.found += 1;
    }

    /// On standard error: it is no index that there is a line for.
    pub(super) fn unreadable(&mut self, tenant: &TenantId, error: &Error) {
        eprintln!("faiss-proxy: the indices of tenant {tenant} cannot be found: {error}");
        self.unreadable += 1;
    }

    /// # Errors
    /// No index is meant, or some failed.
    pub(super) fn end(self) -> Result<(), Failure> {
        match self {
            Self { unreadable: 1.., .. } => Err(Failure::new(format!("{} tenants cannot be read", self.unreadable))),
            Self { found: 0, selection, .. } => Err(Failure::new(format!("{} has no such index", selection.data_dir.display()))),
            Self { failed: 0, .. } => Ok(()),
            Self { found, failed, .. } => Err(Failure::new(format!("{failed} of {found} indices failed"))),
        }
    }
}
