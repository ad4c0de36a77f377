//! Changing the name and the options of an index: they stand in its manifest, and a new one is the whole change.

use std::sync::Arc;

use super::catalogue;
use super::index::Index;
use super::store::{Store, check_name};
use crate::error::{Error, Result};
use crate::segment::recipe;
use crate::types::{IndexConfig, IndexId, TenantId};

impl Store {
    /// Changes the name and the options of an index, durably: after a crash either all of the change is there or nothing of it. `change` is
    /// given them as they are, and leaves them as they are to be; what it refuses is not changed. Who changes the same index meanwhile waits, and so
    /// does the change for a checkpoint that is under way. Options of builds count from the next build on.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `name` or the option; [`Error::Conflict`]: `unindexed` is not what it was. [`Error::NotFound`], [`Error::Closed`],
    /// [`Error::Full`], [`Error::Io`]: nothing was changed. [`Error::OutcomeUnknown`]: it may be after the next opening, and the index is
    /// read-only until then; on a node of a cluster, the catalogue may have it, and then this node will. [`Error::Busy`]: there, others change it all
    /// the time. `change` may be asked more than once there.
    pub fn configure_index(
        &self,
        tenant: &TenantId,
        id: IndexId,
        change: impl Fn(&mut IndexConfig) -> Result<()>,
    ) -> Result<Arc<Index>> {
        let index = self.index(tenant, id)?;
        match &self.slots.context().cluster {
            None => index.configure(change)?,
            Some(cluster) => {
                let next = catalogue::change(&**cluster, &index, change)?;
                // The catalogue has it: this node is told of it once more, should it come to nothing now.
                let configured = index.configure(|now| {
                    *now = next;
                    Ok(())
                });
                configured.map_err(Error::into_unanswered)?;
            }
        }
        self.slots.note_name(&index);
        Ok(index)
    }
}

impl Index {
    pub(super) fn configure(&self, change: impl FnOnce(&mut IndexConfig) -> Result<()>) -> Result<()> {
        // Who deletes the index or closes the store waits for this after it has said so.
        let _files = self.files.lock();
        if let Some(why) = self.poison.get() {
            return Err(Error::Closed(Arc::clone(why)));
        }
        if let Some(error) = &self.writer.lock().closed {
            return Err(error.clone());
        }
        let now = self.config.load_full();
        let mut next = IndexConfig::clone(&now);
        change(&mut next)?;
        if next == *now {
            return Ok(());
        }
        self.check_config(&now, &next)?;
        let published = self.root.lock().publish(|manifest| {
            manifest.settings.name.clone_from(&next.name);
            manifest.settings.options = next.options.to_text();
        });
        if let Err(error @ Error::OutcomeUnknown(_)) = &published {
            self.poison(&error.to_string());
        }
        published?;
        self.config.store(Arc::new(next));
        self.policy()?;
        self.schedule_builds();
        Ok(())
    }

    /// # Errors
    /// Why an index that is configured like `now` cannot be like `next`: as [`Store::configure_index`].
    pub(super) fn check_config(&self, now: &IndexConfig, next: &IndexConfig) -> Result<()> {
        check_name(&next.name, &self.limits)?;
        if next.options.unindexed != now.options.unindexed {
            let detail = "options.unindexed cannot be changed any more: what is stored was indexed by it";
            return Err(Error::Conflict(detail.to_owned()));
        }
        // The factory string says what the index is; the options must go with it as they had to when it was created.
        let (factory, rows_max) = (&self.settings.factory, self.limits.segment_rows_max);
        recipe::resolve(factory, Some(self.metric), self.dimension(), &next.options, rows_max).map(|_| ())
    }
}
