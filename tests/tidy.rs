//! The house rules that no compiler checks: the arrows between layers, where `unsafe` and `std::fs` may stand, the length of a
//! file, and links that lead somewhere. `docs/architecture.md` tells why; a rule changes here and there together.
//!
//! Each rule is a function from a file to its complaints, and is seen to complain by a test of its own below.

use std::fs;
use std::path::{Path, PathBuf};

/// Source lines in one file, tests in a sibling `tests.rs` not counted.
const FILE_LINES_MAX: usize = 600;

/// From the top down; what shares a step is siblings. A layer may use what is below it.
/// `fuzzing` stands above all: the fuzzers call every decoder through it, and it is in no program.
const LAYERS: [&[&str]; 8] =
    [&["fuzzing"], &["cli"], &["api"], &["backup"], &["engine"], &["wal", "segment", "checkpoint"], &["format"], &["io"]];

/// What a layer may use of its siblings or of those above it: the file, the layer, and why.
const ARROW_EXCEPTIONS: &[(&str, &str, &str)] =
    &[("src/types.rs", "segment", "a Query carries the filter that it is asked with")];

/// Words that every layer shares. They use no layer.
const SHARED: [&str; 7] = ["config", "error", "plan", "sync", "time", "types", "write_options"];

const UNSAFE_FILES: [&str; 2] = ["src/segment/faiss.rs", "src/io/map.rs"];

#[test]
fn layers_use_only_what_is_below_them() {
    let found: Vec<Arrow> = sources("src").iter().flat_map(forbidden_arrows).collect();
    let excepted = |arrow: &Arrow| ARROW_EXCEPTIONS.iter().any(|(file, layer, _)| arrow.file == *file && arrow.layer == *layer);
    assert_none(found.iter().filter(|arrow| !excepted(arrow)).map(Arrow::complaint).collect());

    let stale = ARROW_EXCEPTIONS.iter().filter(|(file, layer, _)| !found.iter().any(|a| a.file == *file && a.layer == *layer));
    assert_none(stale.map(|(file, layer, _)| format!("{file} does not use {layer}: strike the exception")).collect());
}

#[test]
fn every_source_directory_is_a_layer() {
    let known: Vec<&str> = LAYERS.concat();
    let directories = entries(&root().join("src")).into_iter().filter(|path| path.is_dir());
    let names = directories.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    assert_none(names.filter(|name| !known.contains(&name.as_str())).map(|name| format!("src/{name} is no layer")).collect());
}

#[test]
fn source_files_are_short() {
    assert_none(sources("src").iter().filter_map(too_long).collect());
}

#[test]
fn unsafe_stands_in_two_files() {
    assert_none(sources("src").iter().flat_map(misplaced_unsafe).collect());
}

#[test]
fn only_io_touches_the_file_system() {
    assert_none(sources("src").iter().flat_map(misplaced_fs).collect());
}

#[test]
fn one_file_names_the_codec_crate() {
    assert_none(sources("src").iter().flat_map(misplaced_codec).collect());
}

#[test]
fn nothing_is_left_to_be_done() {
    assert_none(sources("src").iter().flat_map(stubs).collect());
}

#[test]
fn nothing_sleeps() {
    assert_none(["src", "tests", "benches"].into_iter().flat_map(sources).flat_map(|source| sleeps(&source)).collect());
}

#[test]
fn an_ignored_test_says_why() {
    assert_none(["src", "tests", "benches"].into_iter().flat_map(sources).flat_map(|source| bare_ignores(&source)).collect());
}

/// The fuzz target `store` is built of `tests/support` too, by a crate of its own, last of all in CI.
#[test]
fn what_the_tests_support_uses_is_named_for_the_fuzzers() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let texts = entries(&root().join("tests/support")).into_iter().map(|path| fs::read_to_string(path).unwrap());
    assert_none(texts.flat_map(|text| unnamed_crates(&text, &manifest)).collect());
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md"), root().join("examples/words/README.md")];
    pages.extend(files_below(&root().join("docs")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")));
    assert_none(
        pages
            .iter()
            .flat_map(|page| {
                let directory = page.parent().unwrap();
                dead_links(&relative(page), &fs::read_to_string(page).unwrap(), |target| directory.join(target).exists())
            })
            .collect(),
    );
}

#[test]
fn every_decision_is_in_the_index() {
    let directory = root().join("docs/decisions");
    let index = fs::read_to_string(directory.join("README.md")).unwrap();
    let pages: Vec<String> =
        entries(&directory).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(pages.len() > 1, "no page of a decision beside the index");
    assert_none(unlisted_decisions(&index, &pages));
}

// The rules.

struct Arrow {
    file: String,
    line: usize,
    layer: String,
}

impl Arrow {
    fn complaint(&self) -> String {
        format!("{}:{}: uses '{}', which is not below it", self.file, self.line, self.layer)
    }
}

fn forbidden_arrows(source: &Source) -> Vec<Arrow> {
    let names: Vec<&str> = LAYERS.concat();
    let Some(user) = source.module.first().map(String::as_str) else { return Vec::new() };
    if !names.contains(&user) && !SHARED.contains(&user) {
        return Vec::new(); // lib.rs and main.rs stand above all layers.
    }
    let step_of = |name: &str| LAYERS.iter().position(|siblings| siblings.contains(&name)).unwrap_or(LAYERS.len());
    source
        .uses_of_crate()
        .into_iter()
        .filter(|(_, used)| names.contains(&used.as_str()) && used != user && step_of(used) <= step_of(user))
        .map(|(line, layer)| Arrow { file: source.path.clone(), line, layer })
        .collect()
}

fn too_long(source: &Source) -> Option<String> {
    let lines = source.code.lines().count();
    let exempt = source.module.last().is_some_and(|module| module == "tests");
    (lines > FILE_LINES_MAX && !exempt).then(|| format!("{}: {lines} lines, and {FILE_LINES_MAX} are the most", source.path))
}

fn misplaced_unsafe(source: &Source) -> Vec<String> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    source.lines_with(|line| has_word(line, "unsafe"), "unsafe code belongs in segment/faiss.rs or io/map.rs")
}

fn misplaced_fs(source: &Source) -> Vec<String> {
    if source.module.first().is_some_and(|layer| layer == "io" || layer == "cli") {
        return Vec::new();
    }
    let is_fs = |line: &str| {
        // How full a disk is, for `/v1/metrics`: a figure of the machine, and no operation on a file of the store.
        let line = &line.replace("rustix::fs::statvfs", "");
        ["std::fs", "rustix::fs", "tokio::fs"].iter().any(|path| has_word(line, path))
            || (line.contains("use std::{") && has_word(line, "fs"))
    };
    source.lines_with(is_fs, "the file system is reached through io::Io")
}

fn misplaced_codec(source: &Source) -> Vec<String> {
    if source.path == "src/format/codec.rs" {
        return Vec::new();
    }
    source.lines_with(|line| has_word(line, "bincode"), "only format/codec.rs names bincode: docs/decisions/0001-bincode.md")
}

fn stubs(source: &Source) -> Vec<String> {
    source.lines_with(|line| line.contains("todo!(") || line.contains("unimplemented!("), "a stub")
}

fn sleeps(source: &Source) -> Vec<String> {
    let is_sleep = |line: &str| has_word(line, "thread::sleep") || (line.contains("thread::{") && has_word(line, "sleep"));
    source.lines_with(is_sleep, "wait for what you wait for; a sleep is too short on one machine and too long on the other")
}

fn bare_ignores(source: &Source) -> Vec<String> {
    source.lines_with(|line| line.contains("#[ignore]"), "say why: #[ignore = \"…\"]")
}

/// `exists` tells whether a relative path leads to a file, from where the page is.
fn dead_links(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:"));
    let paths = files.map(|target| target.split('#').next().unwrap_or(target));
    paths.filter(|path| !exists(path)).map(|path| format!("{page}: {path} does not exist")).collect()
}

/// Crates that a file uses and a manifest does not name.
fn unnamed_crates(text: &str, manifest: &str) -> Vec<String> {
    let own = ["crate", "faiss_proxy", "self", "std", "super"];
    // A package is named with either.
    let manifest = manifest.replace('_', "-");
    let used = text.lines().filter_map(|line| line.trim_start().strip_prefix("use ")?.split("::").next());
    let names = used.filter(|name| !own.contains(name)).map(|name| name.replace('_', "-"));
    names
        .filter(|name| !manifest.contains(&format!("\n{name} = ")))
        .map(|name| format!("fuzz/Cargo.toml does not name {name}"))
        .collect()
}

#[test]
fn a_crate_that_the_fuzzers_lack_is_seen() {
    let text = "use std::fs;\n    use twox_hash::XxHash3_128;\nuse super::x;\n";
    assert_eq!(unnamed_crates(text, "\ntwox-hash = 2\n"), [""; 0]);
    assert_eq!(unnamed_crates(text, "\nserde = 1\n"), ["fuzz/Cargo.toml does not name twox-hash"]);
}

fn unlisted_decisions(index: &str, pages: &[String]) -> Vec<String> {
    let unlisted = pages.iter().filter(|page| *page != "README.md" && !index.contains(&format!("]({page})")));
    unlisted.map(|page| format!("docs/decisions/README.md does not link {page}")).collect()
}

// What the rules look at.

/// A Rust file, with comments and the contents of literals blanked out.
struct Source {
    /// From the root of the project, as in `src/wal/scan.rs`.
    path: String,
    /// Below the crate: `["wal", "scan"]`; empty for what is not in `src`.
    module: Vec<String>,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let mut module: Vec<String> = Vec::new();
        if let Some(rest) = path.strip_prefix("src/").and_then(|rest| rest.strip_suffix(".rs")) {
            module = rest.split('/').map(str::to_owned).collect();
            module.pop_if(|last| last == "mod");
        }
        Self { path: path.to_owned(), module, code: blank(text) }
    }

    fn lines_with(&self, is_bad: impl Fn(&str) -> bool, complaint: &str) -> Vec<String> {
        let bad = self.code.lines().enumerate().filter(|(_, line)| is_bad(line));
        bad.map(|(n, _)| format!("{}:{}: {complaint}", self.path, n + 1)).collect()
    }

    /// Every module at the root of the crate that the file names, by `crate::` or by enough `super::`, with its line.
    fn uses_of_crate(&self) -> Vec<(usize, String)> {
        let to_root = "super::".repeat(self.module.len());
        let mut found = Vec::new();
        for prefix in ["crate::", &to_root] {
            if prefix.is_empty() {
                continue;
            }
            for (at, _) in self.code.match_indices(prefix) {
                let longer = self.code[..at].ends_with("super::") || ends_in_word(&self.code[..at]);
                if longer {
                    continue;
                }
                let line = self.code[..at].lines().count().max(1);
                found.extend(first_segments(&self.code[at + prefix.len()..]).into_iter().map(|name| (line, name)));
            }
        }
        found
    }
}

/// `a::b` gives `a`; `{a::{b, c}, d}` gives `a` and `d`.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let mut depth = 1;
    let mut names = vec![word(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The text with comments and the contents of string and character literals replaced by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = literal_or_comment(rest, code.chars().next_back());
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (hidden, after) = rest.split_at(length);
            let quote = if hidden.ends_with('"') { "\"\"" } else { "" };
            code.push_str(quote);
            code.extend(hidden.chars().filter(|c| *c == '\n'));
            rest = after;
        }
    }
    code
}

/// Bytes of the comment or literal that `text` begins with; 0 where it begins with neither.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    let until = |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    // The r of `for` begins no raw string.
    let raw = text.trim_start_matches(['b', 'c']).strip_prefix('r');
    if let Some(raw) = raw.filter(|_| !before.is_some_and(is_word)) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let opening = text.len() - raw.len() + hashes + 1;
            return until(opening, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    if let Some(rest) = text.strip_prefix('"') {
        return 1 + closing(rest, '"');
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let mut chars = rest.chars();
        return match (chars.next(), chars.next()) {
            (Some('\\'), _) => 1 + closing(rest, '\''),
            (Some(c), Some('\'')) => 2 + c.len_utf8(),
            _ => 0, // A lifetime.
        };
    }
    0
}

/// Bytes up to and with the quote that ends a literal, escaped ones passed over.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !ends_in_word(&line[..at]) && !line[at + word.len()..].starts_with(is_word))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// The Rust files below a directory of the project.
fn sources(directory: &str) -> Vec<Source> {
    let paths = files_below(&root().join(directory)).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let sources: Vec<Source> = paths.map(|path| Source::new(&relative(&path), &fs::read_to_string(&path).unwrap())).collect();
    assert!(!sources.is_empty() || directory == "benches", "no Rust file below {directory}");
    sources
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (directories, mut files): (Vec<PathBuf>, Vec<PathBuf>) = entries(directory).into_iter().partition(|path| path.is_dir());
    files.extend(directories.iter().flat_map(|directory| files_below(directory)));
    files
}

/// Empty where there is no such directory.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[track_caller]
fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Each rule is seen to complain, and to keep quiet about what only looks alike.
mod rules_can_fail {
    use super::*;

    fn arrows(path: &str, text: &str) -> Vec<String> {
        forbidden_arrows(&Source::new(path, text)).into_iter().map(|arrow| arrow.layer).collect()
    }

    #[test]
    fn an_arrow_up_or_sideways_is_seen() {
        assert_eq!(arrows("src/wal/scan.rs", "use crate::engine::Store;"), ["engine"]);
        assert_eq!(arrows("src/wal/scan.rs", "use crate::segment::Growing;"), ["segment"]);
        assert_eq!(arrows("src/io/os.rs", "fn f(x: crate::format::Header) {}"), ["format"]);
        assert_eq!(arrows("src/error.rs", "use crate::io::Io;"), ["io"]);
        assert_eq!(arrows("src/wal/mod.rs", "use super::engine;"), ["engine"]);
        assert_eq!(arrows("src/wal/scan.rs", "use super::super::api::x;"), ["api"]);
        assert_eq!(arrows("src/format/frame.rs", "use crate::{\n    error::{Result, io},\n    wal::Log,\n    io,\n};"), ["wal"]);
    }

    #[test]
    fn an_arrow_down_is_not() {
        for text in [
            "use crate::wal::Log;",
            "use crate::{io::Io, types::*, format};",
            "// use crate::api::Reply;",
            "/// [`Reply`](crate::api::Reply)",
            "const S: &str = \"crate::api\"; const R: &str = r#\"crate::api\"#; const C: char = '\"'; // crate::api",
            "use other_crate::api;",
            "use super::api;",
        ] {
            assert!(arrows("src/engine/writer.rs", text).is_empty(), "{text}");
        }
        assert!(arrows("src/lib.rs", "pub use crate::api::x;").is_empty());
    }

    #[test]
    fn the_line_of_an_arrow_is_told() {
        let source = Source::new("src/wal/scan.rs", "//! Words.\n\nuse crate::engine::Store;\n");
        assert_eq!(forbidden_arrows(&source)[0].line, 3);
    }

    #[test]
    fn a_long_file_is_seen() {
        let lines = |n| "x\n".repeat(n);
        assert!(too_long(&Source::new("src/wal/scan.rs", &lines(601))).is_some());
        assert!(too_long(&Source::new("src/wal/scan.rs", &lines(600))).is_none());
        assert!(too_long(&Source::new("src/wal/scan/tests.rs", &lines(601))).is_none());
    }

    #[test]
    fn unsafe_elsewhere_is_seen() {
        assert_eq!(misplaced_unsafe(&Source::new("src/engine/mod.rs", "let x = unsafe { f() };")).len(), 1);
        assert!(misplaced_unsafe(&Source::new("src/engine/mod.rs", "#![deny(unsafe_code)] // unsafe")).is_empty());
        assert!(misplaced_unsafe(&Source::new("src/io/map.rs", "unsafe { f() }")).is_empty());
    }

    #[test]
    fn file_access_elsewhere_is_seen() {
        for text in ["use std::fs;", "std::fs::read(path)", "use std::{fs, io};", "use rustix::fs::flock;"] {
            assert_eq!(misplaced_fs(&Source::new("src/engine/mod.rs", text)).len(), 1, "{text}");
            assert!(misplaced_fs(&Source::new("src/io/os.rs", text)).is_empty(), "{text}");
        }
        for text in ["use std::{fmt, io}; // fs", "rustix::fs::statvfs(path)"] {
            assert!(misplaced_fs(&Source::new("src/engine/mod.rs", text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_codec_crate_elsewhere_is_seen() {
        assert_eq!(misplaced_codec(&Source::new("src/format/manifest.rs", "#[derive(bincode::Encode)]")).len(), 1);
        assert!(misplaced_codec(&Source::new("src/format/manifest.rs", "// bincode")).is_empty());
        assert!(misplaced_codec(&Source::new("src/format/codec.rs", "use bincode::Encode;")).is_empty());
    }

    #[test]
    fn a_stub_a_sleep_and_a_bare_ignore_are_seen() {
        assert_eq!(stubs(&Source::new("src/engine/mod.rs", "fn f() {\n    todo!()\n}")), ["src/engine/mod.rs:2: a stub"]);
        assert_eq!(stubs(&Source::new("src/engine/mod.rs", "unimplemented!(\"later\")")).len(), 1);
        assert_eq!(sleeps(&Source::new("tests/kill.rs", "std::thread::sleep(Duration::from_secs(1));")).len(), 1);
        assert_eq!(sleeps(&Source::new("tests/kill.rs", "use std::thread::{self, sleep};")).len(), 1);
        assert_eq!(bare_ignores(&Source::new("tests/kill.rs", "#[test]\n#[ignore]\nfn f() {}")).len(), 1);
        assert!(bare_ignores(&Source::new("tests/kill.rs", "#[ignore = \"takes an hour\"]")).is_empty());
    }

    #[test]
    fn a_dead_link_and_an_unlisted_decision_are_seen() {
        let text = "[a](there.md) [b](gone.md#part) [c](https://example.org/x) [d](#here)";
        assert_eq!(dead_links("README.md", text, |path| path == "there.md"), ["README.md: gone.md does not exist"]);
        let pages = ["0001-a.md".to_owned(), "0002-b.md".to_owned(), "README.md".to_owned()];
        assert_eq!(unlisted_decisions("- [A](0001-a.md)", &pages).len(), 1);
    }

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "a /* b\nc */ d \"e \\\" f\" 'g' b'\\'' 'h: loop { b'\"' } r\"i\" br##\"j\"# k\"## for \"l\" // m\nn";
        assert_eq!(blank(text), "a \n d \"\"  b 'h: loop { b } \"\"  for \"\" \nn");
    }
}
