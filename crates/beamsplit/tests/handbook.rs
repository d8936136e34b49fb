//! What docs/vgpus.md says is so: its commands, and its requests.

#![allow(clippy::unwrap_used)]

mod support;

use support::Home;

const HANDBOOK: &str = include_str!("../../../docs/vgpus.md");

/// What stands between marks like these.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).map(move |rest| rest.split(end).next().unwrap())
}

#[test]
fn the_first_commands_do_what_they_say() {
    let home = Home::new();
    let _manager = home.serve();
    let first = between(HANDBOOK, "```\n", "\n```").next().unwrap();
    let commands: Vec<_> = first.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
    assert_eq!((commands.len(), commands[0]), (5, "beamsplit serve &"));
    let mut said = String::new();
    for command in &commands[1..] {
        let words: Vec<_> = command.split_whitespace().skip(1).collect();
        said = home.ok(&words);
    }
    // The last one's: where QEMU connects.
    let socket = home.device(home.show("desk")["uuid"].as_str().unwrap()).join("gpu.sock");
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    assert_eq!(home.show("desk")["start"], "auto");
}

/// A command of the handbook with something in the place of its capitals and marks.
fn spelled(command: &str, home: &Home) -> Vec<String> {
    let missing = home.path().join("missing").display().to_string();
    let words = command.split_whitespace().map(|word| {
        let word = word.trim_matches(['[', ']']).split("\\|").next().unwrap().trim_matches(['[', ']']);
        match word.trim_end_matches("..") {
            "U" => "11111111-2222-4333-8444-555555555555".to_owned(),
            "SINK" => "vmm".to_owned(),
            "SECONDS" => "1".to_owned(),
            "FILE" | "FILE.png" | "SOCKET" => missing.clone(),
            word => word.to_owned(),
        }
    });
    words.filter(|word| !word.is_empty()).collect()
}

#[test]
fn each_command_is_understood() {
    let home = Home::new();
    let table = HANDBOOK.split("\n## Commands\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let first = row.split(" | ").next().unwrap();
        for command in between(first, "`", "`").step_by(2) {
            let words = spelled(command.trim_start_matches("beamsplit "), &home);
            let output = home.run(&words);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            // Nobody serves, so none succeeds; 2 is for words that are not understood.
            assert_eq!(output.status.code(), Some(1), "{command}: {words:?}: {told}");
            seen += 1;
        }
    }
    assert!(seen >= 16, "{seen}");
    let both = table.lines().find(|line| line.starts_with("| | both: ")).unwrap();
    let options = between(both, "`", "`").next().unwrap();
    for command in ["create", "define"] {
        let output = home.run(&spelled(&format!("{command} TYPE {options}"), &home));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
}

#[test]
fn each_request_has_an_answer() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["create", support::TYPE]);
    let table = HANDBOOK.split("\n| request | |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let mut method = "";
        let mut of = String::new();
        for request in between(row.split(" | ").next().unwrap(), "`", "`").step_by(2) {
            // The later of a row say only what differs.
            let (said, path) = request.split_once(' ').unwrap_or((method, request));
            method = said;
            let path = path.split(['?', '[']).next().unwrap();
            let path = if path.starts_with("/v1/") { path.to_owned() } else { format!("{of}{path}") };
            of = path.rsplit_once('/').unwrap().0.to_owned();
            let path = path.replace("/V", &format!("/{uuid}"));
            let body = if method == "GET" { "" } else { "{" };
            let length = body.len();
            let answer = home.say(
                format!("{method} {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
            );
            let code = answer.split(' ').nth(1).unwrap_or_default();
            // That there is no such vGPU any more is an answer.
            assert!(!["", "405"].contains(&code) && !answer.contains("There is no /v1"), "{request}: {answer}");
            assert!(
                answer.contains("\"version\":1") || ["/v1/metrics", "/v1/types.toml"].contains(&path.as_str()),
                "{request}: {answer}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn the_types_can_be_had_as_a_file_that_says_the_same() {
    let home = Home::new();
    let manager = home.serve();
    let types = home.json(&["types"]);
    let file = home.ok(&["types", "--toml"]);
    drop(manager);
    std::fs::write(home.config().join("types.toml"), file).unwrap();
    let _manager = home.serve();
    assert_eq!(home.json(&["types"]), types);
}
