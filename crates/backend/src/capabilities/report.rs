//! What was found, in a few lines: what works, and for each thing that does not, what that costs and how to get it.

use std::fmt;

use device::Capset;
use renderer::library::Kind;
use serde_json::{Value, json};

use super::host::Host;
use crate::child::Finding;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Something that works.
    Good(String),
    /// Something that does not.
    Missing(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Good(text) | Line::Missing(text) => f.write_str(text),
        }
    }
}

/// The whole.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub lines: Vec<Line>,
    /// For programs.
    pub json: Value,
}

impl Report {
    /// Puts it together.
    pub fn new(host: &Host, findings: &[Finding], capsets: &[Capset], window: u64) -> Self {
        let names: Vec<String> = capsets.iter().map(|capset| capset.id.to_string()).collect();
        let lines = lines(host, findings, &names, window);
        let of = |kind: Kind| {
            let finding = findings.iter().find(|finding| finding.probe.kind == kind)?;
            let capsets = finding.probe.capsets.iter();
            let capsets = capsets.map(|capset| json!({ "name": capset.id.to_string(), "version": capset.version, "bytes": capset.bytes.len() }));
            Some(json!({
                "works": !finding.probe.capsets.is_empty(),
                "drivers": finding.probe.drivers,
                "capsets": capsets.collect::<Vec<_>>(),
                "missing": finding.probe.missing,
                "render-server": finding.server,
            }))
        };
        let library = findings.iter().find(|finding| finding.probe.version.is_some()).map(|finding| &finding.probe);
        let json = json!({
            "offered": names,
            "window": window,
            "virglrenderer": library.map(|probe| json!({ "version": probe.version, "path": probe.path, "lacks": probe.lacks })),
            "opengl": of(Kind::Gl),
            "vulkan": of(Kind::Vk),
            "render-nodes": host.nodes,
            "render-node": host.node,
            "kernel": host.kernel,
            "kernel-rules": host.kernel_rules(),
            "udmabuf": { "usable": host.udmabuf_refused.is_none(), "why-not": host.udmabuf_refused },
        });
        Report { lines, json }
    }
}

fn lines(host: &Host, findings: &[Finding], offered: &[String], window: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    let library = findings.iter().find_map(|finding| finding.probe.version.as_deref());
    let library = library.map_or_else(String::new, |version| format!(" by virglrenderer {version}"));
    lines.push(match (offered, window) {
        ([], _) => Line::Missing("3D: nothing works here; the guest gets 2D".to_owned()),
        (names, 0) => Line::Good(format!("3D: offered are {}{library}", names.join(", "))),
        (names, window) => {
            let window = window >> 20;
            Line::Good(format!(
                "3D: offered are {}{library}; venus where the VMM maps a window of {window} MiB",
                names.join(", ")
            ))
        }
    });
    for finding in findings {
        let (name, cost) = match finding.probe.kind {
            Kind::Gl => ("OpenGL", "the guest draws OpenGL by itself"),
            Kind::Vk => ("Vulkan", "the guest draws Vulkan by itself"),
        };
        if !finding.probe.drivers.is_empty() {
            lines.push(Line::Good(format!("{name}: {}", finding.probe.drivers.join(", "))));
        }
        for missing in &finding.probe.missing {
            let cost = if finding.probe.capsets.is_empty() { cost } else { "the rest works" };
            lines.push(Line::Missing(format!("{name}: no {} ({}): {cost}", missing.what, missing.why)));
        }
    }
    lines.push(match (&host.node, host.nodes.first()) {
        (Some(node), _) => {
            let driver = host.driver.as_deref().unwrap_or("an unknown driver");
            Line::Good(format!("Render node: {} ({driver})", node.display()))
        }
        (None, Some(node)) => {
            let node = node.display();
            Line::Missing(format!("Render node: none was named, so the processor draws, slowly; --render-node {node}"))
        }
        (None, None) => Line::Missing("Render node: this host has none, so the processor draws, slowly".to_owned()),
    });
    let vulkan = findings.iter().any(|finding| finding.probe.kind == Kind::Vk);
    if vulkan && let Some(why) = &host.udmabuf_refused {
        let cost = "Vulkan drawn by the processor cannot show its memory to a guest";
        lines.push(Line::Missing(format!("/dev/udmabuf: {why}; without it {cost}")));
    }
    if vulkan {
        lines.extend(host.kernel_rules().into_iter().map(Line::Missing));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use renderer::virgl::{Missing, Probe};

    fn finding(kind: Kind, drivers: &[&str], missing: &[(&str, &str)]) -> Finding {
        let missing = missing.iter().map(|(what, why)| Missing { what: (*what).to_owned(), why: (*why).to_owned() });
        let drivers = drivers.iter().map(|driver| (*driver).to_owned()).collect();
        let version = Some("1.2 or newer".to_owned());
        let probe =
            Probe { kind, version, path: None, lacks: vec![], capsets: vec![], drivers, missing: missing.collect() };
        Finding { probe, server: None, files: Default::default() }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn what_works_is_named_with_who_draws_it() {
        let host = Host { node: Some("/dev/dri/renderD128".into()), driver: Some("i915".into()), ..Host::default() };
        let found = [finding(Kind::Gl, &["Mesa Intel"], &[])];
        let text = text(&lines(&host, &found, &["virgl".to_owned(), "virgl2".to_owned()], 0));
        for word in ["virgl, virgl2", "virglrenderer 1.2", "OpenGL: Mesa Intel", "/dev/dri/renderD128 (i915)"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn each_missing_thing_is_told_with_its_cost_and_the_way_to_it() {
        let host = Host {
            nodes: vec!["/dev/dri/renderD128".into()],
            udmabuf_refused: Some("there is none; load it: sudo modprobe udmabuf".to_owned()),
            ..Host::default()
        };
        let found = [finding(Kind::Vk, &[], &[("render server", "install the package virgl-server")])];
        let lines = lines(&host, &found, &[], 0);
        assert!(lines.iter().all(|line| matches!(line, Line::Missing(_))));
        let text = text(&lines);
        for word in [
            "gets 2D",
            "draws Vulkan by itself",
            "virgl-server",
            "--render-node /dev/dri/renderD128",
            "modprobe udmabuf",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
