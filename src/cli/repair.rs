//! `faiss-proxy repair`: gives up what is damaged of an index, by name, so that the rest serves again.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::Failure;
use super::selection::Selection;
use crate::engine::{Consent, Repaired, Survey};
use crate::error::quoted;
use crate::io::os::OsIo;
use crate::types::{IndexId, TenantId};

const INSTEAD: &str = "stop the server first: it would write to what is repaired";

/// Ids that people are shown.
const IDS_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Give up all mutations from this LSN on, where the log is damaged.
    #[arg(long, value_name = "LSN", requires = "index")]
    truncate_log_at: Option<u64>,
    /// Give up all rows of this segment.
    #[arg(long, value_name = "NUMBER", requires = "index")]
    drop_segment: Vec<u64>,
    /// Have what FAISS built over this segment built again. Nothing is lost.
    #[arg(long, value_name = "NUMBER", requires = "index")]
    rebuild_index: Vec<u64>,
    /// Give up all idempotency keys: a retry of a request that was answered is done again.
    #[arg(long, requires = "index")]
    forget_keys: bool,
    /// Say what would be lost, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What there is to consent to.
#[derive(Serialize)]
struct Needs {
    /// Without which the index does not serve.
    needed: Vec<String>,
    /// What is damaged and keeps it from nothing.
    possible: Vec<String>,
}

/// Without consent to anything, says what there is to consent to.
///
/// # Errors
/// Where the directory cannot be opened, no index is meant, or one cannot be repaired so.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { selection, truncate_log_at, drop_segment, rebuild_index, forget_keys, dry_run } = arguments;
    let consents: Vec<Consent> = truncate_log_at
        .map(Consent::TruncateLogAt)
        .into_iter()
        .chain(drop_segment.iter().copied().map(Consent::DropSegment))
        .chain(rebuild_index.iter().copied().map(Consent::RebuildIndex))
        .chain(forget_keys.then_some(Consent::ForgetKeys))
        .collect();
    if consents.is_empty() {
        let survey = selection.survey(INSTEAD)?;
        return selection.for_each(
            &survey,
            |tenant, id| {
                let (needed, possible): (Vec<_>, Vec<_>) =
                    survey.repairs(tenant, id)?.into_iter().partition(|(_, needed)| *needed);
                let words = |consents: Vec<(Consent, bool)>| consents.iter().map(|(consent, _)| consent.to_string()).collect();
                Ok(Needs { needed: words(needed), possible: words(possible) })
            },
            needs_text,
        );
    }
    let survey = if *dry_run {
        selection.survey(INSTEAD)?
    } else {
        let alone = Survey::open_alone(Arc::new(OsIo), &selection.data_dir);
        alone.map_err(|error| selection.cannot_open(&error, INSTEAD))?
    };
    let repair = |tenant: &TenantId, id: IndexId| survey.repair(tenant, id, &consents, *dry_run);
    selection.for_each(&survey, repair, |tenant, id, repaired| text(&survey, tenant, id, repaired, *dry_run))
}

fn needs_text(tenant: &TenantId, id: IndexId, needs: &Needs) -> String {
    let Needs { needed, possible } = needs;
    let line =
        |what: &str, words: &[String]| if words.is_empty() { String::new() } else { format!("\n  {what} {}", words.join(" ")) };
    match (needed.len(), possible.len()) {
        (0, 0) => format!("{tenant} {id}\n  nothing to repair"),
        _ => format!("{tenant} {id}{}{}", line("needed:", needed), line("possible:", possible)),
    }
}

fn text(survey: &Survey, tenant: &TenantId, id: IndexId, repaired: &Repaired, dry_run: bool) -> String {
    let Repaired { lsn, points, lost_lsns, changed_ids, unknown_mutations, lost_rows, lost_ids, aside } = repaired;
    let done = if dry_run { "would be" } else { "is" };
    let mut lines = vec![format!("{tenant} {id}"), format!("  {done} repaired: LSN {lsn}, points {points}")];
    if let Some((first, last)) = lost_lsns {
        lines.push(format!("  lost: LSN {first} to {last}, of which {unknown_mutations} of points that are not known"));
        lines.extend(shown("  which stored or deleted", changed_ids));
    }
    if *lost_rows > 0 || !lost_ids.is_empty() {
        lines.push(format!("  lost: {lost_rows} rows, dead ones included"));
        lines.extend(shown("  points that are gone", lost_ids));
    }
    lines.extend(aside.iter().map(|path| format!("  copied aside: {}", survey.below(tenant, id, path).display())));
    lines.join("\n")
}

fn shown(what: &str, ids: &BTreeSet<String>) -> Option<String> {
    let some: Vec<String> = ids.iter().take(IDS_SHOWN).map(|id| quoted(id)).collect();
    let more = if ids.len() > IDS_SHOWN { " …" } else { "" };
    (!ids.is_empty()).then(|| format!("{what} ({}): {}{more}", ids.len(), some.join(" ")))
}
