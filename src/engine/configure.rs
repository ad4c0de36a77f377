//! Changing the name and the options of an index: they stand in its manifest, and a new one is the whole change.

use std::sync::Arc;

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
    /// read-only until then.
    pub fn configure_index(
        &self,
        tenant: &TenantId,
        id: IndexId,
        change: impl FnOnce(&mut IndexConfig) -> Result<()>,
    ) -> Result<Arc<Index>> {
        let index = self.index(tenant, id)?;
        index.configure(change)?;
        self.slots.note_name(&index);
        Ok(index)
    }
}

impl Index {
    fn configure(&self, change: impl FnOnce(&mut IndexConfig) -> Result<()>) -> Result<()> {
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
        check_name(&next.name, &self.limits)?;
        let (settings, options) = (&self.settings, &next.options);
        if options.unindexed != now.options.unindexed {
            let detail = "options.unindexed cannot be changed any more: what is stored was indexed by it";
            return Err(Error::Conflict(detail.to_owned()));
        }
        // The factory string says what the index is; the options must go with it as they had to when it was created.
        recipe::resolve(&settings.factory, Some(self.metric), self.dimension(), options, self.limits.segment_rows_max)?;
        let published = self.root.lock().publish(|manifest| {
            manifest.settings.name.clone_from(&next.name);
            manifest.settings.options = options.to_text();
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
}
