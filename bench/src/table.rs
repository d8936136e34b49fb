//! A report as text: for a terminal, and as Markdown for the README.

use std::fmt::Write;

use crate::results::{Line, Outcome, Report};

/// Who is meant by the names that peers go by.
const KNOWN: &[(&str, &str)] = &[
    ("qemu", "QEMU's own `vhost-user-gpu`, and for the console QEMU itself with its VNC server, all in one process"),
    ("null", "`vhost-device-gpu` built with its null back-end, which has no pixels: the floor of a round trip"),
];

/// The whole report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        text,
        "{}; medians of {} rounds, the daemons taking turns. A rate is that of the median operation; (median / 99th percentile).",
        report.machine, report.rounds
    )?;
    if report.quick {
        writeln!(text, "A smoke run: these numbers mean little.")?;
    }
    for name in &report.daemons {
        if let Some((_, who)) = KNOWN.iter().find(|(known, _)| known == name) {
            writeln!(text, "`{name}` is {who}.")?;
        }
    }
    for absent in &report.absent {
        writeln!(text, "Not measured: {absent}")?;
    }
    let (first, peers) = report.daemons.split_first().map_or(("", [].as_slice()), |(first, peers)| (first, peers));
    writeln!(text)?;
    let names: Vec<&str> = report.daemons.iter().map(String::as_str).collect();
    let ratios: Vec<String> = peers.iter().map(|peer| format!("{first} / {peer}")).collect();
    let head: Vec<&str> = names.iter().copied().chain(ratios.iter().map(String::as_str)).collect();
    writeln!(text, "| workload | {} |", head.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(head.len()))?;
    for line in &report.lines {
        write!(text, "| {} ({}) |", line.what, line.unit)?;
        for name in &names {
            write!(text, " {} |", line.outcomes.get(*name).map_or(String::from("-"), |outcome| cell(line, outcome)))?;
        }
        for peer in peers {
            write!(text, " {} |", line.ratios.get(peer).map_or(String::from("-"), |ratio| number(*ratio)))?;
        }
        writeln!(text)?;
    }
    for line in &report.lines {
        for (name, outcome) in line.outcomes.iter().filter(|(_, outcome)| !outcome.also.is_empty()) {
            let also: Vec<_> = outcome.also.iter().map(|(what, value)| format!("{} {what}", number(*value))).collect();
            writeln!(text, "\n{}, {name}: {}.", line.name, also.join("; "))?;
        }
    }
    if !report.limits.is_empty() {
        writeln!(text, "\n| limit of this machine | frames/s |\n|---|---:|")?;
        for limit in crate::limits::ALL {
            if let Some(rate) = report.limits.get(limit.name) {
                let bytes = rate * crate::workload::FRAME as f64 / 1e9;
                writeln!(text, "| {} | {rate:.0} ({bytes:.1} GB/s) |", limit.what)?;
            }
        }
    }
    if report.verdicts.iter().any(|verdict| verdict.reached.is_some()) {
        writeln!(text, "\n| goal | wanted | reached | |\n|---|---:|---:|---|")?;
    }
    for verdict in &report.verdicts {
        if let (Some(reached), Some(met)) = (verdict.reached, verdict.met) {
            let met = if met { "met" } else { "**missed**" };
            writeln!(text, "| {} | {} | {reached:.2} | {met} |", verdict.goal, verdict.wanted)?;
        }
    }
    Ok(())
}

fn cell(line: &Line, outcome: &Outcome) -> String {
    let Some(value) = outcome.value else {
        return outcome.failure.clone().unwrap_or_else(|| "-".into());
    };
    match (outcome.p50_us, outcome.p99_us) {
        (Some(p50), Some(p99)) => format!("{} ({} / {} us)", number(value), number(p50), number(p99)),
        _ if line.unit == "switches" => format!("{value:.0}"),
        _ => number(value),
    }
}

/// Three digits that count, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        100.0..10_000.0 => format!("{value:.0}"),
        _ => format!("{:.0}k", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 6.54, 65.4, 654.0, 6540.0, 654_321.0].map(number),
            ["0.00", "6.54", "65.4", "654", "6540", "654k"]
        );
    }
}
