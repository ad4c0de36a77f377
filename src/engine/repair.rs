//! Gives up what is damaged of an index, so that the rest serves again: only what [`Survey::verify`](super::Survey) names, only with consent by name, and never
//! before the damaged bytes were copied aside.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::apply::row_of;
use super::recover::{self, Loaded};
use super::restore::Writing;
use super::survey::Survey;
use super::verify::{Effect, Finding};
use super::view::Segment;
use crate::checkpoint::manifest::Root;
use crate::checkpoint::{dead, file};
use crate::error::{Error, Result, What};
use crate::format::frame::FRAME_ALIGN;
use crate::format::manifest::{LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, dead_name, index_name, keys_name, segment_name};
use crate::format::position::Position;
use crate::io::Io;
use crate::segment::salvage;
use crate::types::{IndexId, Lsn, Metric, TenantId};
use crate::wal::file_log::FileLog;
use crate::wal::salvage::{Behind, Break, behind, replay_sound};

/// Ends the name of a file that was copied aside.
pub(super) const ASIDE: &str = ".damaged";

/// One thing that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    /// All mutations from this one on: the log is damaged there.
    TruncateLogAt(Lsn),
    /// All rows of this segment.
    DropSegment(u64),
    /// What FAISS built over this segment: it is built again, and nothing is lost.
    RebuildIndex(u64),
    /// All idempotency keys: a retry of a request that was answered is done again.
    ForgetKeys,
}

/// As the command line has it.
impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TruncateLogAt(lsn) => write!(f, "--truncate-log-at {lsn}"),
            Self::DropSegment(number) => write!(f, "--drop-segment {number}"),
            Self::RebuildIndex(number) => write!(f, "--rebuild-index {number}"),
            Self::ForgetKeys => f.write_str("--forget-keys"),
        }
    }
}

/// What a repair did, or would do, and what is lost by it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repaired {
    /// The last mutation that there is now. The next one has the LSN after it.
    pub lsn: Lsn,
    /// Live points.
    pub points: u64,
    /// Mutations that are lost: the first, and the last of which anything that is left says that it was there.
    pub lost_lsns: Option<(Lsn, Lsn)>,
    /// Points that those stored or deleted, as far as it can be known.
    pub changed_ids: BTreeSet<String>,
    /// How many of those mutations are of points that are not known.
    pub unknown_mutations: u64,
    /// Rows of dropped segments, dead ones included.
    pub lost_rows: u64,
    /// Points that are gone with them, as far as it can be known.
    pub lost_ids: BTreeSet<String>,
    /// Where the damaged bytes are now.
    pub aside: Vec<PathBuf>,
}

impl Survey {
    /// What there is to consent to, so that the index serves again, and whether it is needed for that. Empty where nothing is wrong that a repair mends.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where something is wrong that no repair mends; [`Error::Io`].
    pub fn repairs(&self, tenant: &TenantId, id: IndexId) -> Result<Vec<(Consent, bool)>> {
        let findings = self.verify(tenant, id, &|_| {}).findings;
        let directory = self.directory(tenant, id);
        let root = Root::look(Arc::clone(&self.io), &directory, id)?;
        let damage = self.log_break(&directory, id, root.current(), &mut |_, _| Ok(()))?;
        let place = Place { directory: &directory, manifest: root.current(), damage: damage.as_ref() };
        let mut repairs: Vec<(Consent, bool)> = Vec::new();
        for finding in &findings {
            let is_needed = finding.effect == Effect::Refused;
            match place.consent(finding) {
                Some(consent) => match repairs.iter_mut().find(|(known, _)| *known == consent) {
                    Some((_, needed)) => *needed |= is_needed,
                    None => repairs.push((consent, is_needed)),
                },
                None if is_needed => return Err(Error::corrupt(&finding.file, finding.offset, finding.problem.clone())),
                None => {}
            }
        }
        repairs.sort_unstable();
        Ok(repairs)
    }

    fn log_break(
        &self,
        directory: &Path,
        id: IndexId,
        manifest: &Manifest,
        replay: &mut dyn FnMut(Lsn, &crate::wal::operation::Operation<'_>) -> Result<()>,
    ) -> Result<Option<Break>> {
        let options = self.log_options(directory, id);
        replay_sound(&options, &manifest.log, manifest.position, replay)
    }

    /// Gives up what is consented to, once the damaged bytes are copied aside. With `dry_run`, says what would be lost, and writes nothing. A crash at any time
    /// leaves the index as it was, or repaired.
    ///
    /// # Errors
    /// [`Error::NotFound`]. [`Error::Conflict`]: something is consented to that nothing is wrong with, or something else is needed too: nothing was done.
    /// [`Error::Corrupt`]: something is wrong that no repair mends. [`Error::Full`], [`Error::Io`]: the index is as it was; [`Error::OutcomeUnknown`]: it may be
    /// repaired.
    pub fn repair(&self, tenant: &TenantId, id: IndexId, consents: &[Consent], dry_run: bool) -> Result<Repaired> {
        if !self.indices(tenant)?.contains(&id) {
            return Err(Error::NotFound(What::Index));
        }
        let repairs = self.repairs(tenant, id)?;
        if let Some(vain) = consents.iter().find(|consent| repairs.iter().all(|(known, _)| known != *consent)) {
            return Err(Error::Conflict(format!("{vain}: verify finds nothing that this would mend; nothing was done")));
        }
        let missing: Vec<String> = repairs
            .iter()
            .filter(|(known, needed)| *needed && !consents.contains(known))
            .map(|(known, _)| known.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Error::Conflict(format!("this needs {} too; nothing was done", missing.join(" "))));
        }
        let directory = self.directory(tenant, id);
        let manifest = Root::look(Arc::clone(&self.io), &directory, id)?.current().clone();
        let diverges = |consent: &&Consent| matches!(consent, Consent::DropSegment(_) | Consent::ForgetKeys);
        if manifest.shared.is_some()
            && let Some(consent) = consents.iter().find(diverges)
        {
            let why = format!(
                "{consent}: other nodes have this index whole, and this one must not have another state; nothing was done"
            );
            return Err(Error::Conflict(why));
        }
        let mut kept = manifest.clone();
        kept.segments.retain(|segment| !consents.contains(&Consent::DropSegment(segment.number)));
        for segment in &mut kept.segments {
            if consents.contains(&Consent::RebuildIndex(segment.number)) {
                segment.built = None;
            }
        }
        if consents.contains(&Consent::ForgetKeys) {
            kept.keys = None;
        }
        let mut loaded = recover::load(&*self.io, &directory, id, &kept)?;
        let log_directory = directory.join(LOG_DIRECTORY);
        let damage =
            self.log_break(&directory, id, &manifest, &mut |lsn, operation| loaded.replay(lsn, operation, &log_directory))?;
        let mut repaired = self.lost(&directory, id, &manifest, &kept, &loaded, damage.as_ref())?;
        if dry_run {
            repaired.aside.clear();
            return Ok(repaired);
        }
        for path in &repaired.aside {
            copy_aside(&*self.io, path)?;
        }
        for path in [SEGMENT_DIRECTORY, LOG_DIRECTORY].map(|name| directory.join(name)) {
            self.io.sync_dir(&path).map_err(|error| Error::io("sync", &path, error))?;
        }
        self.publish(&directory, id, kept, &loaded, damage.is_some())?;
        repaired.aside.iter_mut().for_each(|path| *path = aside(path));
        Ok(repaired)
    }

    /// What is lost, and which files are to be copied aside.
    fn lost(
        &self,
        directory: &Path,
        id: IndexId,
        manifest: &Manifest,
        kept: &Manifest,
        loaded: &Loaded,
        damage: Option<&Break>,
    ) -> Result<Repaired> {
        let segments = &loaded.state.segments;
        let points = segments.iter().map(Segment::live).sum();
        let mut repaired = Repaired { lsn: loaded.state.lsn, points, ..Repaired::default() };
        let in_segments = directory.join(SEGMENT_DIRECTORY);
        for file in manifest.segments.iter().filter(|file| kept.segments.iter().all(|other| other.number != file.number)) {
            let path = in_segments.join(segment_name(file.number));
            repaired.aside.push(path.clone());
            repaired.aside.extend(file.dead.iter().map(|dead| in_segments.join(dead_name(dead.number))));
            let Ok(bytes) = self.io.map(&path) else { continue };
            let rows = super::survey::rows_of(&*self.io, &in_segments, file).unwrap_or(0);
            repaired.lost_rows += rows;
            let dead = file.dead.as_ref().and_then(|dead| dead::read(&*self.io, &in_segments, dead, rows as usize).ok());
            let is_live = |position: usize| dead.as_ref().is_none_or(|dead| !dead.contains(position as u32));
            let ids = salvage::ids(&bytes).into_iter().filter(|&(position, _)| is_live(position)).map(|(_, id)| id);
            repaired.lost_ids.extend(ids.filter(|id| row_of(&loaded.ids, segments, id).is_none()));
        }
        for (before, after) in
            manifest.segments.iter().filter_map(|b| Some((b, kept.segments.iter().find(|a| a.number == b.number)?)))
        {
            if let (Some(index), None) = (before.index(), after.index()) {
                repaired.aside.push(in_segments.join(index_name(index.number)));
            }
        }
        if let (Some(keys), None) = (&manifest.keys, &kept.keys) {
            repaired.aside.push(in_segments.join(keys_name(keys.number)));
        }
        if let Some(damage) = damage {
            let options = self.log_options(directory, id);
            let given_up = &manifest.log[damage.segment.min(manifest.log.len())..];
            let Behind { last_lsn, ids, unknown } = behind(&options, given_up, damage.lsn)?;
            repaired.aside.extend(given_up.iter().map(|name| name.path(&options.directory)));
            repaired.lost_lsns = Some((damage.lsn + 1, last_lsn.max(damage.lsn + 1)));
            repaired.unknown_mutations = unknown.max(u64::from(last_lsn == damage.lsn));
            repaired.changed_ids = ids;
        }
        // What is missing needs no copy.
        repaired.aside.retain(|path| self.io.open(path).is_ok());
        Ok(repaired)
    }

    /// Puts manifests that name nothing that was given up in the place of the present ones.
    fn publish(&self, directory: &Path, id: IndexId, mut kept: Manifest, loaded: &Loaded, truncates: bool) -> Result<()> {
        let io = &*self.io;
        let mut root = Root::load(Arc::clone(&self.io), directory, id)?;
        if truncates {
            let to = directory.join(SEGMENT_DIRECTORY);
            let mut writing = Writing {
                io,
                from: &to,
                to: &to,
                id,
                dimension: loaded.state.dimension,
                scaled: loaded.created.metric == Metric::Cosine,
                numbers: root.next_number()?..u64::MAX,
            };
            let (sealed, growing) = loaded.state.segments.split_at(loaded.sealed.len());
            for (segment, file) in sealed.iter().zip(&mut kept.segments) {
                file.dead = writing.dead(segment)?;
            }
            kept.segments.extend(writing.growing(growing)?);
            kept.keys = writing.keys(loaded)?;
            io.sync_dir(&to).map_err(|error| Error::io("sync", &to, error))?;
            // The log goes on in a segment of a name that none had: those that are given up are still in the directory.
            let start = Position { lsn: loaded.state.lsn, ..Position::START };
            let mut log = FileLog::recover(self.log_options(directory, id), &[], start, &mut |_, _| Ok(()))?.log;
            let name = log.prepare_segment()?.name();
            kept.log = vec![name];
            kept.position = Position { at: Some((name, FRAME_ALIGN as u64)), ..start };
        }
        root.publish(|manifest| *manifest = kept)?;
        // The one before still names what is damaged, and keeps it on the disk.
        root.publish(|_| {})?;
        Ok(())
    }
}

/// An index that something is wrong with.
struct Place<'a> {
    directory: &'a Path,
    manifest: &'a Manifest,
    damage: Option<&'a Break>,
}

impl Place<'_> {
    /// What mends a finding; `None`: nothing does, or nothing has to.
    fn consent(&self, finding: &Finding) -> Option<Consent> {
        let below = finding.file.strip_prefix(self.directory).ok()?.to_str()?;
        if matches!(finding.effect, Effect::Spare) {
            return None;
        }
        if below.starts_with(LOG_DIRECTORY) {
            // Damage before the checkpoint keeps nothing from serving.
            return self
                .damage
                .filter(|_| finding.effect == Effect::Refused)
                .map(|damage| Consent::TruncateLogAt(damage.lsn + 1));
        }
        let name = below.strip_prefix(SEGMENT_DIRECTORY)?.strip_prefix('/')?;
        if self.manifest.keys.as_ref().is_some_and(|keys| keys_name(keys.number) == name) {
            return Some(Consent::ForgetKeys);
        }
        self.manifest.segments.iter().find_map(|file| {
            let is_rows = segment_name(file.number) == name;
            let is_dead = file.dead.as_ref().is_some_and(|dead| dead_name(dead.number) == name);
            let is_index = file.index().is_some_and(|index| index_name(index.number) == name);
            match (is_rows || is_dead, is_index) {
                (true, _) => Some(Consent::DropSegment(file.number)),
                (_, true) => Some(Consent::RebuildIndex(file.number)),
                _ => None,
            }
        })
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ASIDE);
    name.into()
}

/// Copies a file beside itself and syncs it; one that an earlier try left is replaced. The name is made durable with the directory.
fn copy_aside(io: &dyn Io, path: &Path) -> Result<()> {
    let target = aside(path);
    match io.remove_file(&target) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &target, error)),
        _ => {}
    }
    let bytes = io.map(path).map_err(|error| Error::io("map", path, error))?;
    file::write(io, &target, &bytes).map(drop)
}
