//! `faiss-proxy inspect`: an index's settings, segments and log; with `--log`, its mutations one by one.

use std::ops::ControlFlow;

use super::selection::Selection;
use super::{Failure, print_line};
use crate::engine::{LogRecord, Outline, SegmentOutline};
use crate::error::Error;
use crate::time::rfc3339;
use crate::types::{IndexId, TenantId};

/// Ids of a mutation that people are shown.
const IDS_SHOWN: usize = 3;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Print the mutations that the log has, instead of what the index is.
    #[arg(long)]
    log: bool,
    /// The first mutation to print.
    #[arg(long, value_name = "LSN", requires = "log", default_value_t = 1)]
    from_lsn: u64,
    /// Mutations to print at most; 0: all.
    #[arg(long, value_name = "COUNT", requires = "log", default_value_t = 0)]
    limit: u64,
}

/// # Errors
/// Where the directory cannot be looked at, no index is meant, or a server would refuse one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let selection = &arguments.selection;
    let survey = selection.survey("a server that has it tells of an index on GET /v1/index/{id}, and its log on …/changes")?;
    if !arguments.log {
        return selection.for_each(&survey, |tenant, id| survey.outline(tenant, id), outline_text);
    }
    let print = |tenant: &TenantId, id: IndexId| {
        let mut left = if arguments.limit == 0 { u64::MAX } else { arguments.limit };
        let mut failed = None;
        survey.records(tenant, id, arguments.from_lsn, &mut |record| {
            let line = if selection.json { record_json(tenant, id, &record) } else { Ok(record_text(&record)) };
            left -= 1;
            match line.and_then(|line| print_line(&line)) {
                Ok(()) if left > 0 => Ok(ControlFlow::Continue(())),
                printed => {
                    failed = printed.err();
                    Ok(ControlFlow::Break(()))
                }
            }
        })?;
        Ok::<_, Error>(failed)
    };
    selection.walk(&survey, |told, tenant, id| {
        if !selection.json {
            print_line(&format!("{tenant} {id}"))?;
        }
        match print(tenant, id) {
            Ok(None) => {
                told.printed();
                Ok(())
            }
            Ok(Some(failure)) => Err(failure),
            Err(error) => told.tell(tenant, id, Err::<(), _>(error), |_, _, ()| String::new()),
        }
    })
}

fn outline_text(tenant: &TenantId, id: IndexId, outline: &Outline) -> String {
    let mut lines = vec![
        format!("{tenant} {id}"),
        format!("  name        {:?}", outline.name),
        format!(
            "  type        {} ({}), {}, dimension {}",
            outline.index_type,
            outline.factory,
            outline.metric.as_str(),
            outline.dimension
        ),
        format!("  options     {}", outline.options.to_text()),
        format!("  created     {}", rfc3339(outline.created_at_us)),
        format!("  manifest    {}, {} bytes in all", outline.generation, outline.bytes),
        format!(
            "  LSN         {}, in the checkpoint {}, oldest in the log {}",
            outline.lsn, outline.checkpoint_lsn, outline.oldest_lsn
        ),
    ];
    if outline.torn_bytes > 0 {
        lines.push(format!("  torn        {} bytes at the end of the log, which nobody was told of", outline.torn_bytes));
    }
    lines.push(format!("  segments    {}", outline.segments.len()));
    lines.extend(outline.segments.iter().map(segment_text));
    lines.push(format!("  log         {} files", outline.log.len()));
    lines.extend(outline.log.iter().map(|log| format!("    {}  {} bytes", log.file, log.bytes)));
    if outline.keys_bytes > 0 {
        lines.push(format!("  keys        {} bytes", outline.keys_bytes));
    }
    lines.push(format!("  other files {}, {} bytes", outline.other_files.len(), outline.other_bytes));
    lines.extend(outline.other_files.iter().map(|name| format!("    {name}")));
    lines.join("\n")
}

fn segment_text(segment: &SegmentOutline) -> String {
    let SegmentOutline { number, rows, dead, bytes, index_bytes, fields_bytes, .. } = segment;
    let head = format!("    {number}: rows {rows}, dead {dead}, bytes {bytes}");
    let built = match (&segment.built, &segment.exact) {
        (Some(factory), _) => format!("\n      {factory}, recall {:.3}, {index_bytes} bytes", segment.recall.unwrap_or(0.0)),
        (None, Some(why)) => format!("\n      scanned: {why}"),
        (None, None) => String::new(),
    };
    let fields = if *fields_bytes > 0 { format!("\n      metadata index, {fields_bytes} bytes") } else { String::new() };
    format!("{head}{built}{fields}")
}

fn record_json(tenant: &TenantId, index: IndexId, record: &LogRecord) -> Result<String, Failure> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        tenant: &'a str,
        index: IndexId,
        #[serde(flatten)]
        record: &'a LogRecord,
    }
    let line = Line { tenant: tenant.as_str(), index, record };
    serde_json::to_string(&line).map_err(|error| Failure::new(error.to_string()))
}

fn record_text(record: &LogRecord) -> String {
    let LogRecord { lsn, time_us, kind, key, ids } = record;
    let shown: Vec<String> = ids.iter().take(IDS_SHOWN).map(|id| crate::error::quoted(id)).collect();
    let more = if ids.len() > IDS_SHOWN { " …" } else { "" };
    let key = key.as_ref().map(|key| format!(" key {}", crate::error::quoted(key))).unwrap_or_default();
    let time = rfc3339(i64::try_from(*time_us).unwrap_or(i64::MAX));
    format!("  {lsn} {time} {kind} {}: {}{more}{key}", ids.len(), shown.join(" "))
}
