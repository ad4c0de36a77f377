//! The names of the simulated disk: directories, which of their changes are on the disk, and what a crash makes of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, ErrorKind, Result};
use std::path::{Component, Path};

use super::contents::Contents;
use super::{Chance, Survival};
use crate::io::Entry;

pub(super) type NodeId = u64;

const ROOT: NodeId = 0;

/// A name in a directory, by the directory's node: it stays the same when the directory is renamed.
type Place = (NodeId, String);

type Names = BTreeMap<String, NodeId>;

/// All files and directories, with or without a name.
#[derive(Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    /// Changes that no sync made durable, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Node {
    File(FileNode),
    Directory { names: Names, durable_names: Names },
}

#[derive(Clone, Default)]
struct FileNode {
    contents: Contents,
    /// Without a name and without a handle its space is free again, though a crash can bring it back.
    is_named: bool,
    handles: usize,
}

/// Create (no `from`), remove (no `to`) or rename (both), of a file or a directory.
#[derive(Clone)]
struct Change {
    from: Option<Place>,
    to: Option<Place>,
    node: NodeId,
    /// The directory's sync failed: see [`Tree::sync_dir`].
    is_lost: bool,
}

impl Change {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::Directory { names: Names::new(), durable_names: Names::new() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, unsynced: Vec::new() }
    }

    // Paths.

    pub(super) fn file(&self, path: &Path) -> Result<NodeId> {
        let node = self.resolve(path)?;
        match self.nodes[&node] {
            Node::File(_) => Ok(node),
            Node::Directory { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<Entry>> {
        let names = self.names(self.resolve(path)?)?;
        Ok(names.iter().map(|(name, node)| Entry { name: name.clone(), is_dir: self.is_directory(*node) }).collect())
    }

    fn resolve(&self, path: &Path) -> Result<NodeId> {
        let mut node = ROOT;
        for name in components(path)? {
            node = *self.names(node)?.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn place(&self, path: &Path) -> Result<Place> {
        let mut names = components(path)?;
        let name = names.pop().ok_or(ErrorKind::InvalidInput)?;
        let mut directory = ROOT;
        for name in names {
            directory = *self.names(directory)?.get(name).ok_or(ErrorKind::NotFound)?;
        }
        self.names(directory)?;
        Ok((directory, name.to_owned()))
    }

    fn names(&self, directory: NodeId) -> Result<&Names> {
        match &self.nodes[&directory] {
            Node::Directory { names, .. } => Ok(names),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn at(&self, place: &Place) -> Option<NodeId> {
        self.names(place.0).ok()?.get(&place.1).copied()
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.nodes[&node], Node::Directory { .. })
    }

    // Changes of names.

    pub(super) fn create(&mut self, path: &Path) -> Result<NodeId> {
        self.add(path, Node::File(FileNode::default()))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> Result<()> {
        self.add(path, Node::Directory { names: Names::new(), durable_names: Names::new() }).map(|_| ())
    }

    fn add(&mut self, path: &Path, node: Node) -> Result<NodeId> {
        // The root has no place, but it is there.
        if self.resolve(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let place = self.place(path)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(None, Some(place), id);
        Ok(id)
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> Result<()> {
        let node = self.file(path)?;
        self.change(Some(self.place(path)?), None, node);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> Result<()> {
        let node = self.resolve(path)?;
        if !self.names(node)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(Some(self.place(path)?), None, node);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let from_place = self.place(from)?;
        let to_place = self.place(to)?;
        let node = self.at(&from_place).ok_or(ErrorKind::NotFound)?;
        if self.is_directory(node) && from_place != to_place && components(to)?.starts_with(&components(from)?) {
            return Err(Error::new(ErrorKind::InvalidInput, "a directory cannot be moved into itself"));
        }
        // Linux asks this before it compares the kinds: a directory that `from` is in is not empty.
        if from_place != to_place && components(from)?.starts_with(&components(to)?) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        match self.at(&to_place) {
            Some(present) if present == node => return Ok(()),
            Some(present) => match (self.is_directory(node), self.is_directory(present)) {
                (false, false) => {}
                (false, true) => return Err(ErrorKind::IsADirectory.into()),
                (true, false) => return Err(ErrorKind::NotADirectory.into()),
                (true, true) if self.names(present)?.is_empty() => {}
                (true, true) => return Err(ErrorKind::DirectoryNotEmpty.into()),
            },
            None => {}
        }
        self.change(Some(from_place), Some(to_place), node);
        Ok(())
    }

    fn change(&mut self, from: Option<Place>, to: Option<Place>, node: NodeId) {
        if let Some((directory, name)) = &from {
            self.names_mut(*directory).remove(name);
            self.set_named(node, false);
        }
        if let Some((directory, name)) = &to {
            if let Some(replaced) = self.names_mut(*directory).insert(name.clone(), node) {
                self.set_named(replaced, false);
            }
            self.set_named(node, true);
        }
        self.unsynced.push(Change { from, to, node, is_lost: false });
    }

    fn names_mut(&mut self, directory: NodeId) -> &mut Names {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory { names, .. }) => names,
            _ => unreachable!("a place is in a directory"),
        }
    }

    fn set_named(&mut self, node: NodeId, is_named: bool) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&node) {
            file.is_named = is_named;
        }
    }

    // Contents.

    pub(super) fn contents(&self, file: NodeId) -> &Contents {
        match &self.nodes[&file] {
            Node::File(file) => &file.contents,
            Node::Directory { .. } => unreachable!("only files are opened"),
        }
    }

    pub(super) fn contents_mut(&mut self, file: NodeId) -> &mut Contents {
        &mut self.file_mut(file).contents
    }

    fn file_mut(&mut self, file: NodeId) -> &mut FileNode {
        match self.nodes.get_mut(&file) {
            Some(Node::File(file)) => file,
            _ => unreachable!("a handle keeps its file"),
        }
    }

    pub(super) fn add_handle(&mut self, file: NodeId) {
        self.file_mut(file).handles += 1;
    }

    pub(super) fn drop_handle(&mut self, file: NodeId) {
        self.file_mut(file).handles -= 1;
    }

    /// The same disk in the hands of another process.
    pub(super) fn without_handles(&self) -> Self {
        let mut tree = self.clone();
        for node in tree.nodes.values_mut() {
            if let Node::File(file) = node {
                file.handles = 0;
            }
        }
        tree
    }

    /// Bytes of all files that have a name or a handle.
    pub(super) fn used_bytes(&self) -> u64 {
        let length = |node: &Node| match node {
            Node::File(file) if file.is_named || file.handles > 0 => file.contents.len() as u64,
            _ => 0,
        };
        self.nodes.values().map(length).sum()
    }

    /// See [`SimIo::fingerprint`](super::SimIo::fingerprint).
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut next = vec![ROOT];
        while let Some(directory) = next.pop() {
            let Ok(names) = self.names(directory) else { continue };
            names.len().hash(&mut hasher);
            for (name, node) in names {
                name.hash(&mut hasher);
                match &self.nodes[node] {
                    Node::Directory { .. } => next.push(*node),
                    Node::File(file) => (file.contents.len(), crc32fast::hash(file.contents.bytes())).hash(&mut hasher),
                }
            }
        }
        hasher.finish()
    }

    // Durability of names.

    /// Makes the names of a directory durable as they are now; with `fails`, marks their unsynced changes as lost instead: later
    /// syncs pass over a lost change, unless a later change of one of its names is synced.
    ///
    /// A rename between two directories is one change: a sync of either makes both halves durable.
    pub(super) fn sync_dir(&mut self, path: &Path, fails: bool) -> Result<()> {
        let directory = self.resolve(path)?;
        self.names(directory)?;
        if fails {
            let touched = self.unsynced.iter_mut().filter(|change| change.places().any(|(d, _)| *d == directory));
            touched.for_each(|change| change.is_lost = true);
            return Ok(());
        }
        // From the newest to the oldest, for a change needs the earlier ones of its names: a file that was created in one directory
        // and renamed into this one must not come back under its first name as well.
        let mut needed: BTreeSet<Place> = BTreeSet::new();
        let (mut synced, mut rest) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.unsynced).into_iter().rev() {
            let is_here = !change.is_lost && change.places().any(|(d, _)| *d == directory);
            if is_here || change.places().any(|place| needed.contains(place)) {
                needed.extend(change.places().cloned());
                synced.push(change);
            } else {
                rest.push(change);
            }
        }
        rest.reverse();
        self.unsynced = rest;
        for change in synced.into_iter().rev() {
            if let Some((directory, name)) = &change.from {
                self.durable_names_mut(*directory).remove(name);
            }
            if let Some((directory, name)) = change.to {
                self.durable_names_mut(directory).insert(name, change.node);
            }
        }
        self.forget_unreachable();
        Ok(())
    }

    fn durable_names_mut(&mut self, directory: NodeId) -> &mut Names {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory { durable_names, .. }) => durable_names,
            _ => unreachable!("a place is in a directory"),
        }
    }

    /// Drops what no name, no handle and no crash can reach any more.
    fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(directory) = next.pop() {
            if let Node::Directory { names, durable_names } = &self.nodes[&directory] {
                let brought = self.unsynced.iter().filter(|c| c.places().any(|(d, _)| *d == directory)).map(|c| c.node);
                next.extend(names.values().chain(durable_names.values()).copied().chain(brought).filter(|n| reached.insert(*n)));
            }
        }
        self.unsynced.retain(|change| change.places().any(|(directory, _)| reached.contains(directory)));
        let in_changes: BTreeSet<NodeId> = self.unsynced.iter().flat_map(|c| c.places().map(|(d, _)| *d)).collect();
        self.nodes.retain(|id, node| {
            reached.contains(id) || in_changes.contains(id) || matches!(node, Node::File(file) if file.handles > 0)
        });
    }

    /// The tree as found after a power cut.
    pub(super) fn after_crash(&self, survival: Survival) -> Self {
        let seed = survival.seed();
        let mut chance = Chance::new(seed);
        let mut durable = Durable { tree: self, names: BTreeMap::new() };
        for (id, node) in &self.nodes {
            if let Node::Directory { durable_names, .. } = node {
                durable.names.insert(*id, durable_names.clone());
            }
        }
        // As for sectors: crashes that keep all, none, and any share between.
        let share = chance.below(5);
        for change in &self.unsynced {
            let survives = match survival {
                Survival::None => false,
                Survival::All => !change.is_lost,
                Survival::Random(_) | Survival::Torn(_) => chance.in_quarters(share),
            };
            if survives {
                durable.apply_if_possible(change);
            }
        }

        let mut found = Self { nodes: BTreeMap::new(), next: self.next, unsynced: Vec::new() };
        let mut next = vec![ROOT];
        while let Some(id) = next.pop() {
            let node = match &self.nodes[&id] {
                Node::Directory { .. } => {
                    let names = durable.names.remove(&id).unwrap_or_default();
                    next.extend(names.values());
                    Node::Directory { durable_names: names.clone(), names }
                }
                Node::File(file) => {
                    // By the file and not by its turn: names may be random, and a seed must bring the same back.
                    let mut chance = Chance::of_part(seed, id);
                    let contents = Contents::found(file.contents.after_crash(survival, &mut chance));
                    Node::File(FileNode { contents, is_named: true, handles: 0 })
                }
            };
            let earlier = found.nodes.insert(id, node);
            debug_assert!(earlier.is_none(), "node {id} has two names after a crash");
        }
        found
    }
}

/// The names on the disk while a crash decides on the changes that were on their way.
struct Durable<'a> {
    tree: &'a Tree,
    names: BTreeMap<NodeId, Names>,
}

impl Durable<'_> {
    /// A file system keeps its order where one change is meaningless without another: such a change is passed over.
    fn apply_if_possible(&mut self, change: &Change) {
        let is_directory = self.tree.is_directory(change.node);
        match (&change.from, &change.to) {
            (None, Some(to)) => {
                if self.at(to).is_none() {
                    self.put(to, change.node);
                }
            }
            (Some(from), None) => {
                if self.at(from) == Some(change.node) && (!is_directory || self.is_empty(change.node)) {
                    self.take(from);
                }
            }
            (Some(from), Some(to)) => {
                let may_replace = match self.at(to) {
                    None => true,
                    Some(present) if is_directory => self.tree.is_directory(present) && self.is_empty(present),
                    Some(present) => !self.tree.is_directory(present),
                };
                if self.at(from) == Some(change.node) && may_replace && !self.is_in(to.0, change.node) {
                    self.take(from);
                    self.put(to, change.node);
                }
            }
            (None, None) => {}
        }
    }

    fn at(&self, place: &Place) -> Option<NodeId> {
        self.names.get(&place.0)?.get(&place.1).copied()
    }

    fn put(&mut self, place: &Place, node: NodeId) {
        self.names.entry(place.0).or_default().insert(place.1.clone(), node);
    }

    fn take(&mut self, place: &Place) {
        self.names.entry(place.0).or_default().remove(&place.1);
    }

    fn is_empty(&self, directory: NodeId) -> bool {
        self.names.get(&directory).is_none_or(BTreeMap::is_empty)
    }

    /// Whether `node` is `directory` or somewhere in it.
    fn is_in(&self, node: NodeId, directory: NodeId) -> bool {
        let mut next = vec![directory];
        while let Some(inner) = next.pop() {
            if inner == node {
                return true;
            }
            next.extend(self.names.get(&inner).into_iter().flat_map(BTreeMap::values));
        }
        false
    }
}

fn components(path: &Path) -> Result<Vec<&str>> {
    if !path.is_absolute() {
        return Err(Error::new(ErrorKind::InvalidInput, "the simulated disk takes absolute paths only"));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(ErrorKind::InvalidInput)?),
            _ => return Err(Error::new(ErrorKind::InvalidInput, "the simulated disk takes no '..'")),
        }
    }
    Ok(names)
}
