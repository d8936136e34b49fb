//! What commands print: for people, for programs, and for nobody.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::process::{Command, Output, Stdio};

use support::{Home, PROGRAM, TYPE};

fn run(home: &Home, words: &[&str], output: impl Into<Stdio>) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(words).arg("--runtime-dir").arg(home.runtime()).stdout(output).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn what_nobody_reads_is_no_failure_and_a_full_disk_is_one_in_one_line() {
    let home = Home::new();
    let _manager = home.serve();
    home.ok(&["define", TYPE, "--name", "desk"]);
    for words in [
        &["list"][..],
        &["list", "--json"],
        &["list", "--gpus"],
        &["types"],
        &["types", "--json"],
        &["show", "desk"],
        &["attach", "desk"],
        &["attach", "desk", "--libvirt"],
        &["attach", "desk", "--json"],
        &["modify", "desk", "--autostart", "off", "--json"],
        &["top", "--once", "--interval", "0.1"],
        &["top", "--interval", "0.1"],
        &["top", "--json"],
        &["list", "--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unread = run(&home, words, writer);
        assert_eq!((unread.status.code(), &unread.stderr[..]), (Some(0), &b""[..]), "{words:?}: {unread:?}");
        let full = run(&home, words, File::options().write(true).open("/dev/full").unwrap());
        let told = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{words:?}: {told}");
        assert!(told.contains("standard output") && told.trim_end().lines().count() == 1, "{words:?}: {told}");
    }
    // What fails fails, whether anybody reads or not.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(&home, &["start", "desk", "nobody", "--json"], writer).status.code(), Some(1));
    home.ok(&["stop", "desk"]);
}

#[test]
fn tables_are_aligned_whatever_the_names_are() {
    let home = Home::new();
    let _manager = home.serve();
    for name in ["a", "机器", "\u{202e}turned", "x".repeat(64).as_str()] {
        home.ok(&["define", TYPE, "--name", name]);
    }
    let listed = home.ok(&["list"]);
    let column = |line: &str| unicode_width::UnicodeWidthStr::width(line.split(TYPE).next().unwrap());
    let columns: Vec<usize> = listed.lines().skip(1).map(column).collect();
    assert_eq!(columns.len(), 4);
    assert!(columns.iter().all(|at| *at == columns[0]), "{listed}");
    assert!(!listed.contains('\u{202e}'), "{listed}");
    // A program that reads a pipe gets no colours.
    assert!(!listed.contains('\u{1b}') && !home.ok(&["top", "--once", "--interval", "0.1"]).contains('\u{1b}'));
}

#[test]
fn words_that_can_name_nothing_are_wrong_usage() {
    let home = Home::new();
    let long = "x".repeat(65);
    for words in [
        &["show", ""][..],
        &["start", ""],
        &["stop", "a", ""],
        &["undefine", ""],
        &["attach", ""],
        &["modify", "", "--name", "a"],
        &["log", ""],
        &["stats", ""],
        &["screenshot", "", "a.png"],
        &["show", &long],
        &["top", "--json", "--once"],
        &["log", "desk", "--json", "--follow"],
    ] {
        let output = home.run(words);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{words:?}: {told}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_to_who_has_it_read() {
    let home = Home::new();
    let _manager = home.serve();
    let types = home.config().join("types.toml");
    std::fs::write(&types, "[[type]]\nname = 'a'\nmemory = '1G'\ncolour = 'red'\n").unwrap();
    let told = home.fails(&["reload"]);
    assert!(told.contains("types.toml: line 4") && told.contains("colour"), "{told}");
    home.ok(&["types", "software"]);
    std::fs::write(&types, "[[type]]\nname = 'a'\nmemory = '1G'\n").unwrap();
    home.ok(&["reload"]);
    assert_eq!(home.json(&["types"])["types"][0]["name"], "a");
}

#[test]
fn everything_that_is_listed_is_listed_for_programs_too() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--name", "desk"]);
    assert_eq!(home.json(&["top"])["vgpus"][0]["uuid"], uuid.as_str());
    assert_eq!(home.json(&["log", "desk"])["text"], "");
    assert!(!home.json(&["list", "--gpus"])["gpus"].as_array().unwrap().is_empty());
    assert!(home.fails(&["types", "no-such-gpu"]).contains("beamsplit list --gpus"));
    assert_eq!(home.json(&["types", "software", "--max-memory", "1M"])["types"], serde_json::json!([]));
}
