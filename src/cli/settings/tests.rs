#![expect(clippy::disallowed_methods, reason = "tests look at files themselves")]

use std::fmt::Write as _;
use std::{env, fs};

use super::*;

fn serve() -> Command {
    // So that what is made from it is also built: flattened options have their headings then.
    let mut command = Arguments::command();
    command.build();
    command.find_subcommand("serve").unwrap().clone()
}

/// A table for each table of a file.
fn tables() -> String {
    let (mut text, mut heading) = (String::new(), None);
    let command = serve();
    for option in options(&command) {
        if text.is_empty() || option.get_help_heading() != heading {
            heading = option.get_help_heading();
            let title = heading.map_or(String::new(), |heading| format!("\n`[{}]`:\n", heading.to_lowercase()));
            let _ = writeln!(text, "{title}\n| in the file | flag | environment | default | |\n| --- | --- | --- | --- | --- |");
        }
        let value = option.get_value_names().filter(|_| option.get_action().takes_values()).map(|names| format!(" {}", names[0]));
        let flag = if option.is_hide_set() { String::new() } else { format!("`{}{}`", long(option), value.unwrap_or_default()) };
        let variable = option.get_env().map_or(String::new(), |name| format!("`{}`", name.to_string_lossy()));
        let default =
            option.get_default_values().first().map_or("none".to_owned(), |value| format!("`{}`", value.to_string_lossy()));
        let values: Vec<_> = option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let values = if option.get_action().takes_values() && !values.is_empty() {
            format!(" One of {}.", values.join(", "))
        } else {
            String::new()
        };
        let key = key_of(option);
        let key = key.rsplit('.').next().unwrap();
        let help = option.get_help().unwrap().to_string();
        let _ = writeln!(text, "| `{key}` | {flag} | {variable} | {default} | {}.{values} |", help.trim_end_matches('.'));
    }
    text
}

#[test]
fn every_option_is_in_the_docs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- options -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- end of options -->").unwrap();
    if env::var_os("FAISS_PROXY_WRITE_DOCS").is_some() {
        fs::write(path, format!("{before}<!-- options -->\n{}\n<!-- end of options -->{after}", tables())).unwrap();
        return;
    }
    let remedy = "docs/configuration.md is stale: FAISS_PROXY_WRITE_DOCS=1 cargo test --lib cli::settings";
    assert_eq!(found.trim(), tables().trim(), "{remedy}");
}

#[test]
fn every_option_of_a_file_can_be_said_in_the_environment() {
    let command = serve();
    for option in options(&command).filter(|option| option.get_id() != "dev") {
        let name = option.get_env().unwrap_or_else(|| panic!("{option:?}")).to_str().unwrap();
        let key = key_of(option);
        let expected = format!("FAISS_PROXY_{}", key.rsplit('.').next().unwrap().to_uppercase());
        assert!(name == expected || (name, &*key) == ("FAISS_DATA_DIR", "data_dir"), "{name} for {key}");
    }
    assert!(options(&command).count() > 15);
}
