//! Where the options of the server come from: the command line, then the environment, then a file of TOML (`--config`), then their defaults. Each
//! option is defined once, for clap; a key of the file is the name of a flag with `_` for `-`, in a table where `--help` has a heading for it.
//!
//! What the file says goes the way of the command line: it is put behind what was typed, unless that or the environment says it already. So it is
//! parsed and checked by the same code.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use toml::{Table, Value};

use super::serve::API_KEYS;
use super::{Arguments, Failure};
use crate::error::quoted;
use crate::io::durable;
use crate::io::os::OsIo;

/// Bytes of a file: it has some dozen options, and API keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The option that names the file, which has no place in it.
const CONFIG: &str = "config";

/// The exit code for a command line or a file that is wrong: clap's own.
const WRONG: u8 = 2;

/// What was given to the last subcommand of a command line.
#[derive(Debug)]
pub struct Given {
    /// That of the file too.
    pub matches: ArgMatches,
    /// Its definition.
    pub command: Command,
    /// The file, where there is one, and the options that are taken from it.
    pub file: Option<(PathBuf, BTreeSet<String>)>,
}

/// Reads a command line, the environment, and the file that either names. Prints help and ends the process where that is asked for, or where the command
/// line is wrong.
///
/// # Errors
/// All that is wrong with the file.
pub fn read(typed: &[OsString]) -> Result<(Arguments, Given), Failure> {
    let command = Arguments::command();
    // What it complains of is complained of below.
    let first = command.clone().ignore_errors(true).try_get_matches_from(typed).unwrap_or_else(|error| error.exit());
    let (matches, subcommand) = last(first, &command);
    // One that takes no file has no such option.
    let file = matches.try_get_one::<PathBuf>(CONFIG);
    if file.is_ok() && matches.value_source(API_KEYS) == Some(ValueSource::CommandLine) {
        return Err(wrong("a command line is seen by everybody on the machine: give API keys in the environment or in a file"));
    }
    let Some(path) = file.ok().flatten() else { return Ok(parse(&command, typed, None).unwrap_or_else(|error| error.exit())) };
    let (mut added, mut problems) = entries(&read_file(path)?, &subcommand);
    added.retain(|entry| !is_said_elsewhere(&matches, &entry.option));
    // Each complaint takes away what it is about, until the rest is right.
    loop {
        let line: Vec<OsString> = typed.iter().cloned().chain(added.iter().map(|entry| entry.typed.clone().into())).collect();
        let of_file = added.iter().map(|entry| entry.option.clone()).collect();
        match parse(&command, &line, Some((path.clone(), of_file))) {
            Ok(read) if problems.is_empty() => return Ok(read),
            Ok(_) => break,
            Err(error) => {
                let at = added.iter().position(|entry| is_about(&error, entry)).unwrap_or_else(|| error.exit());
                problems.push(format!("{}: {}", added.remove(at).key, sentence(&error)));
            }
        }
    }
    let problems: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect();
    Err(wrong(problems.join("\n")))
}

fn parse(
    command: &Command,
    line: &[OsString],
    file: Option<(PathBuf, BTreeSet<String>)>,
) -> Result<(Arguments, Given), clap::Error> {
    let matches = command.clone().try_get_matches_from(line)?;
    let arguments = Arguments::from_arg_matches(&matches)?;
    let (matches, command) = last(matches, command);
    Ok((arguments, Given { matches, command, file }))
}

/// What is told of a command line or a file that is wrong.
pub fn wrong(sentence: impl Into<String>) -> Failure {
    Failure::new(sentence).with_code(WRONG)
}

/// The last subcommand: what was given to it, and its definition.
fn last(mut matches: ArgMatches, command: &Command) -> (ArgMatches, Command) {
    let mut command = command;
    while let Some((name, of_it)) = matches.remove_subcommand() {
        command = command.find_subcommand(&name).expect("it was found");
        matches = of_it;
    }
    (matches, command.clone())
}

fn read_file(path: &Path) -> Result<Table, Failure> {
    let failed = |why: String| wrong(format!("--config {}: {why}", path.display()));
    let bytes = durable::read_all(&OsIo, path, FILE_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("is no UTF-8".to_owned()))?;
    text.parse().map_err(|error: toml::de::Error| {
        // The message alone: what stands on the line may be a key.
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
        failed(format!("line {line}: {}", error.message()))
    })
}

/// What a file says of one option.
struct Entry {
    /// As it stands in the file: `limits.k_max`.
    key: String,
    /// Clap's name of it.
    option: String,
    /// Its flag, `--k-max`, and what would be typed for it, `--k-max=10`.
    flag: String,
    typed: String,
}

/// What the table says of the options of `command`, and what is wrong with the rest of it.
fn entries(table: &Table, command: &Command) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    let mut add = |key: String, value: &Value| {
        let Some(option) = options(command).find(|option| key_of(option) == key) else {
            return problems.push(format!("{}: there is no such option", quoted(&key)));
        };
        match typed(option, value) {
            Ok(None) => {}
            Ok(Some(typed)) => entries.push(Entry { key, option: option.get_id().to_string(), flag: long(option), typed }),
            Err(why) => problems.push(format!("{key}: {why}")),
        }
    };
    for (key, value) in table {
        match value {
            Value::Table(inner) => inner.iter().for_each(|(name, value)| add(format!("{key}.{name}"), value)),
            value => add(key.clone(), value),
        }
    }
    (entries, problems)
}

/// Those that a file may have.
pub fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|option| option.get_long().is_some_and(|name| ![CONFIG, "help", "version"].contains(&name)))
}

/// What a file calls it.
pub fn key_of(option: &Arg) -> String {
    let name = option.get_long().unwrap_or_default().replace('-', "_");
    option.get_help_heading().map_or_else(|| name.clone(), |heading| format!("{}.{name}", heading.to_lowercase()))
}

fn long(option: &Arg) -> String {
    format!("--{}", option.get_long().unwrap_or_default())
}

/// What would be typed for it; `None`: nothing.
fn typed(option: &Arg, value: &Value) -> Result<Option<String>, String> {
    let takes_value = option.get_action().takes_values();
    let text = match value {
        Value::Boolean(is_set) if matches!(option.get_action(), ArgAction::SetTrue) => return Ok(is_set.then(|| long(option))),
        Value::String(text) if takes_value => text.clone(),
        Value::Integer(number) if takes_value => number.to_string(),
        Value::Float(number) if takes_value => number.to_string(),
        Value::Array(items) if option.get_id() == API_KEYS => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            items.ok_or("must be strings, \"key:tenant\" each")?.join(",")
        }
        other if takes_value => return Err(format!("must be a string or a number, and is a {}", other.type_str())),
        other => return Err(format!("must be true or false, and is a {}", other.type_str())),
    };
    Ok(Some(format!("{}={text}", long(option))))
}

fn is_said_elsewhere(matches: &ArgMatches, option: &str) -> bool {
    matches!(matches.value_source(option), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Whether clap complains of what this says.
fn is_about(error: &clap::Error, entry: &Entry) -> bool {
    match error.get(ContextKind::InvalidArg) {
        // `--k-max <COUNT>`
        Some(ContextValue::String(argument)) => argument.split(' ').next() == Some(&entry.flag),
        _ => false,
    }
}

/// Clap's words without "error:" and what to try.
fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}
