//! `faiss-proxy verify`: reads every byte of every index that is meant, tells everything that is wrong, and writes nothing.

use super::selection::Selection;
use super::{Failure, print_line};
use crate::engine::{Effect, Finding, Survey, Verified};
use crate::types::{IndexId, TenantId};

/// Exit code where something is wrong.
const FOUND: u8 = 3;

/// # Errors
/// Where the directory cannot be looked at, no index is meant, or something is wrong with one.
pub fn run(selection: &Selection) -> Result<(), Failure> {
    let survey = selection.survey("stop the server, or verify a copy of the directory: a copy of a running one will do")?;
    let (mut verified, mut wrong) = (0, 0);
    let bar = selection.progress(bytes(selection, &survey), "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}");
    let each = |tenant: &TenantId, id: IndexId| {
        bar.set_message(format!("{tenant}"));
        let found = survey.verify(tenant, id, &|bytes| bar.inc(bytes));
        verified += 1;
        wrong += u32::from(!found.findings.is_empty());
        Ok(found)
    };
    let told = selection.for_each(&survey, each, |tenant, id, verified| bar.suspend(|| text(&survey, tenant, id, verified)));
    bar.finish_and_clear();
    told?;
    if wrong == 0 {
        return Ok(());
    }
    if !selection.json {
        print_line(EXPLANATION)?;
    }
    Err(Failure::new(format!("something is wrong with {wrong} of {verified} indices")).with_code(FOUND))
}

/// What there is to read, about: for the bar alone.
fn bytes(selection: &Selection, survey: &Survey) -> u64 {
    let tenants = survey.tenants().unwrap_or_default().into_iter().filter(|tenant| selection.has_tenant(tenant));
    let of_tenant = |tenant: TenantId| {
        let indices = survey.indices(&tenant).unwrap_or_default().into_iter().filter(|&index| selection.has_index(index));
        indices.filter_map(|index| survey.outline(&tenant, index).ok()).map(|outline| outline.bytes).sum::<u64>()
    };
    tenants.map(of_tenant).sum()
}

fn text(survey: &Survey, tenant: &TenantId, id: IndexId, verified: &Verified) -> String {
    let Verified { lsn, points, digest, files, bytes, torn_bytes, recall, findings } = verified;
    let mut lines = vec![format!("{tenant} {id}")];
    lines.push(match findings.len() {
        0 => format!("  ok: LSN {lsn}, points {points}, files {files}, bytes {bytes}"),
        count => format!("  WRONG in {count} places; files {files}, bytes {bytes}"),
    });
    lines.extend(digest.iter().map(|digest| format!("  digest {digest}")));
    lines.extend(recall.iter().map(|recall| {
        format!(
            "  segment {}: FAISS finds {:.3} of the nearest rows, {:.3} when built",
            recall.segment, recall.found, recall.built
        )
    }));
    if *torn_bytes > 0 {
        lines.push(format!("  {torn_bytes} bytes at the end of the log are what a crash left; nobody was told of them"));
    }
    for Finding { file, offset, problem, effect } in findings {
        let file = survey.below(tenant, id, file);
        lines.push(format!("  {} {} at byte {offset}\n    {problem}", effect_word(*effect), file.display()));
    }
    lines.join("\n")
}

fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Refused => "refused",
        Effect::MadeAgain => "made again",
        Effect::Unseen => "unseen",
        Effect::Spare => "spare",
    }
}

const EXPLANATION: &str = "\
refused     acknowledged data is damaged or missing: a server refuses the index,
            answers 503 for it, leaves its files alone, and serves the others.
            Restore it from a backup, or give up what is damaged, by name:
            faiss-proxy repair
made again  a server makes the file again of its rows, which are sound.
unseen      a server opens the index and does not see it. Keep a copy of the
            directory and report it: the disk's checksums agree with the bytes.
spare       only what the manifest before the newest one names. It is replaced
            with the next checkpoint.";
