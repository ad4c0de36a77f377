//! `faiss-proxy config`: the options of the server, looked at without starting it.

use clap::ArgAction;
use clap::parser::ValueSource;

use super::settings::{self, Given};
use super::{Failure, print_line, serve};

/// Look at the options of the server, from the command line, the environment and a file, without starting it.
#[derive(Debug, clap::Subcommand)]
pub enum Work {
    /// Tell everything that is wrong with them, with exit code 2, or nothing.
    Check(serve::Arguments),
    /// Print all of them as a file for --config, with where each comes from. API keys are not printed.
    Print(serve::Arguments),
}

/// Does what was asked for.
///
/// # Errors
/// All that is wrong.
pub fn run(work: &Work, given: &Given) -> Result<(), Failure> {
    match work {
        Work::Check(arguments) => match serve::prepare(arguments) {
            Ok(_) => Ok(()),
            Err(problems) => Err(settings::wrong(problems.join("\n"))),
        },
        Work::Print(_) => print(given),
    }
}

fn print(given: &Given) -> Result<(), Failure> {
    let mut table = None;
    // Those of tables are the last, as TOML wants them.
    for option in settings::options(&given.command) {
        let key = settings::key_of(option);
        let (of_table, name) = key.split_once('.').map_or((None, &*key), |(table, name)| (Some(table), name));
        if let Some(of_table) = of_table
            && table.as_deref() != Some(of_table)
        {
            print_line(&format!("\n[{of_table}]"))?;
            table = Some(of_table.to_owned());
        }
        print_line(&line(given, option, name))?;
    }
    Ok(())
}

/// `key = value # where it comes from`
fn line(given: &Given, option: &clap::Arg, name: &str) -> String {
    let id = option.get_id().as_str();
    let from_file = given.file.as_ref().filter(|(_, options)| options.contains(id));
    let source = match (from_file, given.matches.value_source(id)) {
        (Some((path, _)), _) => path.display().to_string(),
        (None, Some(ValueSource::CommandLine)) => format!("--{}", option.get_long().unwrap_or_default()),
        (None, Some(ValueSource::EnvVariable)) => option.get_env().unwrap_or_default().to_string_lossy().into_owned(),
        (None, Some(_)) => "default".to_owned(),
        (None, None) => return format!("# {name} is not set"),
    };
    let value = match given.matches.get_raw(id).and_then(|mut values| values.next()) {
        _ if id == serve::API_KEYS => "\"…\"".to_owned(),
        _ if matches!(option.get_action(), ArgAction::SetTrue) => given.matches.get_flag(id).to_string(),
        Some(value) => literal(&value.to_string_lossy()),
        None => return format!("# {name} is not set"),
    };
    format!("{name} = {value} # {}", source.escape_debug())
}

/// As TOML has it: a number where that says the same.
fn literal(text: &str) -> String {
    let whole = text.parse::<i64>().ok().map(|number| number.to_string());
    let number =
        whole.or_else(|| text.contains('.').then(|| text.parse::<f64>().ok()).flatten().map(|number| number.to_string()));
    number.filter(|number| number == text).unwrap_or_else(|| toml::Value::from(text).to_string())
}
