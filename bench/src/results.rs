//! What a whole run found, round by round, and what follows from it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::timing::median;
use crate::workload::{BAD_MOVES, Finding, OVER_BARE, Workload};

/// Findings of one daemon at one workload: one for each round, or why there are none.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The number of the table, in the workload's unit: the median of the rounds. A rate is that of the median operation.
    pub value: Option<f64>,
    /// Operations in a second, all in all.
    pub mean_rate: Option<f64>,
    /// Median over the rounds of each round's median, in microseconds.
    pub p50_us: Option<f64>,
    /// Median over the rounds of each round's 99th percentile, in microseconds.
    pub p99_us: Option<f64>,
    /// Microseconds of processor that the daemon took for each operation.
    pub cpu_us: Option<f64>,
    /// Kicks that the daemon wanted for each batch of commands.
    pub kicks: Option<f64>,
    /// Interrupts that the daemon sent for each batch of commands.
    pub interrupts: Option<f64>,
    /// What else was counted: medians of the rounds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<&'static str, f64>,
    /// The number of each round.
    pub rounds: Vec<f64>,
    /// Why there is no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Outcome {
    /// What the findings of all rounds say together.
    pub fn of(findings: &[Finding], failure: Option<String>) -> Self {
        let rounds: Vec<f64> = findings.iter().filter_map(Finding::number).collect();
        let mut also: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for (what, number) in findings.iter().flat_map(|finding| finding.also.iter()) {
            also.entry(what).or_default().push(*number);
        }
        let middle = |part: fn(&Finding) -> Option<f64>| median(findings.iter().filter_map(part));
        Self {
            value: median(rounds.iter().copied()),
            mean_rate: middle(|finding| Some(finding.timing?.rate)),
            p50_us: middle(|finding| Some(finding.timing?.p50_us)),
            p99_us: middle(|finding| Some(finding.timing?.p99_us)),
            cpu_us: middle(|finding| finding.cpu_us),
            kicks: middle(|finding| finding.kicks),
            interrupts: middle(|finding| finding.interrupts),
            also: also.into_iter().filter_map(|(what, numbers)| Some((what, median(numbers)?))).collect(),
            failure: if rounds.is_empty() { failure } else { None },
            rounds,
        }
    }
}

/// Outcomes by daemon, for one workload.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The workload's name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Is a larger number the better one?
    pub more_is_better: bool,
    /// Outcomes by the daemon's name.
    pub outcomes: BTreeMap<String, Outcome>,
    /// By peer: how many times better the first daemon is.
    pub ratios: BTreeMap<String, f64>,
}

impl Line {
    /// A line without outcomes yet.
    pub fn new(workload: &Workload) -> Self {
        let Workload { name, what, unit, more_is_better, .. } = *workload;
        Self { name, what, unit, more_is_better, outcomes: BTreeMap::new(), ratios: BTreeMap::new() }
    }

    /// The number of a daemon.
    pub fn value(&self, daemon: &str) -> Option<f64> {
        self.outcomes.get(daemon)?.value
    }

    /// How many times better `first` is than `other`.
    pub fn ratio(&self, first: &str, other: &str) -> Option<f64> {
        let (first, other) = (self.value(first)?, self.value(other)?);
        let ratio = if self.more_is_better { first / other } else { other / first };
        ratio.is_finite().then_some(ratio)
    }
}

/// A speed that was set as a goal, and whether it was reached.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The goal in words.
    pub goal: &'static str,
    /// What had to be reached.
    pub wanted: f64,
    /// What was reached; nothing when one side of the comparison was not measured.
    pub reached: Option<f64>,
    /// Was it reached? Within [`NOISE`] counts.
    pub met: Option<bool>,
}

/// Two runs of the same daemon differ by as much.
pub const NOISE: f64 = 0.03;

/// All that a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// Processor, kernel and number of cores.
    pub machine: String,
    /// Rounds that the medians are made of.
    pub rounds: usize,
    /// A smoke run: the numbers mean little.
    pub quick: bool,
    /// The daemons in order; ratios are those of the first.
    pub daemons: Vec<String>,
    /// Peers that were asked for or known and are not there, each with what to do about it.
    pub absent: Vec<String>,
    /// Frames a second by limit.
    pub limits: BTreeMap<&'static str, f64>,
    /// The workloads.
    pub lines: Vec<Line>,
    /// The goals.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// Fills in the ratios and the verdicts.
    pub fn conclude(&mut self) {
        let Some(first) = self.daemons.first().cloned() else { return };
        for line in &mut self.lines {
            let ratio = |peer: &String| Some((peer.clone(), line.ratio(&first, peer)?));
            line.ratios = self.daemons[1..].iter().filter_map(ratio).collect();
        }
        self.verdicts = GOALS.iter().map(|goal| goal.judge(self, &first)).collect();
    }

    fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name)
    }
}

struct Goal {
    what: &'static str,
    wanted: f64,
    /// The smaller the better, and no noise is allowed for.
    at_most: bool,
    reached: fn(&Report, &str) -> Option<f64>,
}

/// The names that peers go by in goals.
const QEMU: &str = "qemu";
const NULL: &str = "null";

fn against(report: &Report, first: &str, line: &str, peer: &str) -> Option<f64> {
    report.line(line)?.ratio(first, peer)
}

fn between(report: &Report, first: &str, line: &str, other: &str, peer: &str) -> Option<f64> {
    Some(report.line(line)?.value(first)? / report.line(other)?.value(peer)?)
}

fn also(report: &Report, first: &str, line: &str, what: &str) -> Option<f64> {
    report.line(line)?.outcomes.get(first)?.also.get(what).copied()
}

const GOALS: &[Goal] = &[
    Goal {
        what: "Ring round trip, times vhost-device-gpu's null build",
        wanted: 1.0,
        at_most: false,
        reached: |report, first| against(report, first, "ring", NULL),
    },
    Goal {
        what: "A load of a register over vfio-user, us more than a bare ping-pong",
        wanted: 3.0,
        at_most: true,
        reached: |report, first| also(report, first, "register_read", OVER_BARE),
    },
    Goal {
        what: "A store to a register over vfio-user, us more than a bare ping-pong",
        wanted: 3.0,
        at_most: true,
        reached: |report, first| also(report, first, "register_write", OVER_BARE),
    },
    Goal {
        what: "1080p in a viewer of ours over vfio-user, times vhost-user",
        wanted: 0.9,
        at_most: false,
        reached: |report, first| between(report, first, "frame_viewer_vfio", "frame_viewer", first),
    },
    Goal {
        what: "GET_DISPLAY_INFO, times QEMU",
        wanted: 3.0,
        at_most: false,
        reached: |report, first| against(report, first, "display_info", QEMU),
    },
    Goal {
        what: "Create and unref at depth 64, times QEMU",
        wanted: 1.3,
        at_most: false,
        reached: |report, first| against(report, first, "create_unref", QEMU),
    },
    Goal {
        what: "Attach cycles, times QEMU",
        wanted: 1.3,
        at_most: false,
        reached: |report, first| against(report, first, "attach", QEMU),
    },
    Goal {
        what: "64x64 damage, times QEMU",
        wanted: 1.5,
        at_most: false,
        reached: |report, first| against(report, first, "damage", QEMU),
    },
    Goal {
        what: "Cursor moves, times QEMU",
        wanted: 1.5,
        at_most: false,
        reached: |report, first| against(report, first, "cursor", QEMU),
    },
    Goal {
        what: "1080p until shown, share of one copy plus the bare socket",
        wanted: 0.9,
        at_most: false,
        reached: |report, first| Some(report.line("frame")?.value(first)? / report.limits.get("copy_socket")?),
    },
    Goal {
        what: "1080p until shown on two cores, times QEMU",
        wanted: 1.3,
        at_most: false,
        reached: |report, first| against(report, first, "frame_two_cores", QEMU),
    },
    Goal {
        what: "1080p until a viewer of ours touched it, times QEMU's display",
        wanted: 5.0,
        at_most: false,
        reached: |report, first| between(report, first, "frame_viewer", "frame", QEMU),
    },
    Goal {
        what: "Start until listening, times faster than the null build",
        wanted: 1.0,
        at_most: false,
        reached: |report, first| against(report, first, "listening", NULL),
    },
    Goal {
        what: "Resident memory at start, MiB",
        wanted: 6.0,
        at_most: true,
        reached: |report, first| report.line("rss_start")?.value(first),
    },
    Goal {
        what: "Speed among 50,000 resources, times that among 50",
        wanted: 1.0,
        at_most: false,
        reached: |report, first| between(report, first, "many_resources", "few_resources", first),
    },
    Goal {
        what: "Context switches of an idle daemon in 10 s",
        wanted: 0.0,
        at_most: true,
        reached: |report, first| report.line("idle")?.value(first),
    },
    Goal {
        what: "A key of a VNC client until the guest has it, us",
        wanted: 300.0,
        at_most: true,
        reached: |report, first| report.line("key")?.value(first),
    },
    Goal {
        what: "The same, the viewer on a core of its own, us",
        wanted: 300.0,
        at_most: true,
        reached: |report, first| report.line("key_two_cores")?.value(first),
    },
    Goal {
        what: "A key of a page until the guest has it, us",
        wanted: 300.0,
        at_most: true,
        reached: |report, first| report.line("key_page")?.value(first),
    },
    Goal {
        what: "A key while text scrolls, us",
        wanted: 300.0,
        at_most: true,
        reached: |report, first| report.line("key_text")?.value(first),
    },
    Goal {
        what: "Of 1000 moves a second: lost, cut or wrong",
        wanted: 0.0,
        at_most: true,
        reached: |report, first| also(report, first, "pointer", BAD_MOVES),
    },
    Goal {
        what: "Scrolling text, raw, frames/s of 30",
        wanted: 30.0,
        at_most: false,
        reached: |report, first| report.line("text_raw")?.value(first),
    },
    Goal {
        what: "Scrolling text, ZRLE preferred, frames/s of 30",
        wanted: 30.0,
        at_most: false,
        reached: |report, first| report.line("text_zrle")?.value(first),
    },
    Goal {
        what: "A film of 1080p, raw, frames/s of 30",
        wanted: 30.0,
        at_most: false,
        reached: |report, first| report.line("film_raw")?.value(first),
    },
    Goal {
        what: "A film of 1080p, ZRLE preferred, frames/s of 30",
        wanted: 30.0,
        at_most: false,
        reached: |report, first| report.line("film_zrle")?.value(first),
    },
    Goal {
        what: "Context switches of an idle device and viewer in 10 s, people looking",
        wanted: 0.0,
        at_most: true,
        reached: |report, first| report.line("idle_console")?.value(first),
    },
];

impl Goal {
    fn judge(&self, report: &Report, first: &str) -> Verdict {
        let reached = (self.reached)(report, first).filter(|reached| reached.is_finite());
        let good = |reached: f64| {
            if self.at_most { reached <= self.wanted } else { reached >= self.wanted * (1.0 - NOISE) }
        };
        Verdict { goal: self.what, wanted: self.wanted, reached, met: reached.map(good) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    fn report(numbers: &[(&str, &str, f64)]) -> Report {
        let mut lines: Vec<Line> = workload::ALL.iter().map(Line::new).collect();
        for &(name, daemon, value) in numbers {
            let line = lines.iter_mut().find(|line| line.name == name).expect("a workload");
            let also = BTreeMap::from([(BAD_MOVES, value), (OVER_BARE, value)]);
            line.outcomes.insert(daemon.into(), Outcome { value: Some(value), also, ..Outcome::default() });
        }
        let daemons = ["beamsplit", "qemu", "null"].map(String::from).to_vec();
        let (machine, absent, verdicts) = (String::new(), Vec::new(), Vec::new());
        let limits = BTreeMap::from([("copy_socket", 400.0)]);
        let mut report =
            Report { version: 1, machine, rounds: 1, quick: false, daemons, absent, limits, lines, verdicts };
        report.conclude();
        report
    }

    fn verdict(report: &Report, start: &str) -> Option<bool> {
        report.verdicts.iter().find(|verdict| verdict.goal.starts_with(start)).expect("a goal").met
    }

    #[test]
    fn a_goal_is_met_missed_or_unknown() {
        let report = report(&[
            ("display_info", "beamsplit", 310.0),
            ("display_info", "qemu", 100.0),
            ("cursor", "beamsplit", 140.0),
            ("cursor", "qemu", 100.0),
            ("frame", "beamsplit", 361.0),
            ("rss_start", "beamsplit", 6.1),
        ]);
        assert_eq!(verdict(&report, "GET_DISPLAY_INFO"), Some(true));
        assert_eq!(verdict(&report, "Cursor moves"), Some(false));
        assert_eq!(verdict(&report, "1080p until shown, share"), Some(true));
        assert_eq!(verdict(&report, "Resident memory"), Some(false));
        assert_eq!(verdict(&report, "Attach cycles"), None);
    }

    #[test]
    fn of_milliseconds_fewer_are_better() {
        let report = report(&[("listening", "beamsplit", 2.0), ("listening", "null", 3.0)]);
        assert_eq!(report.line("listening").expect("line").ratios["null"], 1.5);
    }

    #[test]
    fn each_goal_names_a_workload_that_exists() {
        let all: Vec<(&str, &str, f64)> = workload::ALL
            .iter()
            .flat_map(|w| ["beamsplit", "qemu", "null"].map(|daemon| (w.name, daemon, 1.0)))
            .collect();
        let report = report(&all);
        let unknown: Vec<_> = report.verdicts.iter().filter(|verdict| verdict.met.is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
