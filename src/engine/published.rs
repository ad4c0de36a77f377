//! A state as readers see it: a View, taken without a lock, and the ids of the same state.

use std::sync::Arc;

use crate::sync::{ArcSwap, RwLock};

/// A View and the ids that belong to it: whoever has the lock of the ids sees them agree, since both change under its write lock.
/// `tests/schedules/` runs this file under a scheduler.
#[derive(Debug)]
pub(crate) struct Published<V, I> {
    /// What a search takes, without a lock.
    pub(crate) view: ArcSwap<V>,
    ids: RwLock<I>,
}

impl<V, I> Published<V, I> {
    pub(crate) fn new(view: Arc<V>, ids: I) -> Self {
        Self { view: ArcSwap::new(view), ids: RwLock::new(ids) }
    }

    /// What `find` finds, and the View of the same state.
    pub(crate) fn look_up<T>(&self, find: impl FnOnce(&I, &V) -> T) -> (Arc<V>, T) {
        let ids = self.ids.read();
        let view = self.view.load_full();
        let found = find(&ids, &view);
        (view, found)
    }

    /// The ids alone: of the newest state, for who keeps others from changing it.
    pub(crate) fn with_ids<T>(&self, look: impl FnOnce(&I) -> T) -> T {
        look(&self.ids.read())
    }

    /// Changes the ids, and publishes the View that the change gives.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut I) -> (Arc<V>, T)) -> T {
        let mut ids = self.ids.write();
        let (view, outcome) = change(&mut ids);
        self.view.store(view);
        outcome
    }

    /// Publishes a View in which every id has the row that it had: the same rows in other files.
    pub(crate) fn exchange(&self, view: Arc<V>) {
        self.view.store(view);
    }
}
