//! A whole run: rounds of all workloads, the daemons taking turns.

use std::collections::BTreeMap;
use std::path::Path;

use crate::daemon::Program;
use crate::error::Result;
use crate::limits;
use crate::process;
use crate::results::{Line, Outcome, Report};
use crate::timing::median;
use crate::workload::{Budget, Finding, Workload};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The daemons; ratios are those of the first.
    pub programs: Vec<Program>,
    /// The workloads.
    pub workloads: Vec<&'static Workload>,
    /// Measures what the machine can do at best, too.
    pub limits: bool,
    /// How often everything is done.
    pub rounds: usize,
    /// How long and how large.
    pub budget: Budget,
    /// Says so in the report.
    pub quick: bool,
    /// Peers that are not there, for the report.
    pub absent: Vec<String>,
}

type Found = BTreeMap<(&'static str, String), (Vec<Finding>, Option<String>)>;

/// Runs a plan; sockets are made in `folder`. `progress` is told what is being done.
pub fn run(plan: &Plan, folder: &Path, mut progress: impl FnMut(&str)) -> Result<Report> {
    let cores = process::cores()?;
    let mut found = Found::new();
    let mut limits: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..plan.rounds {
        if plan.limits {
            progress(&format!("round {}: limits", round + 1));
            for limit in limits::ALL {
                let timing = limit.run(&cores, plan.budget.time.min(std::time::Duration::from_millis(500)))?;
                limits.entry(limit.name).or_default().push(timing.typical_rate());
            }
        }
        for workload in plan.workloads.iter().filter(|workload| round < workload.rounds) {
            progress(&format!("round {}: {}", round + 1, workload.name));
            // Each round begins with another daemon, so that none always comes first.
            for turn in 0..plan.programs.len() {
                let program = &plan.programs[(turn + round) % plan.programs.len()];
                let entry = found.entry((workload.name, program.name.clone())).or_default();
                match workload.run(program, folder, &cores, &plan.budget) {
                    Ok(finding) => entry.0.push(finding),
                    Err(error) => entry.1 = Some(error.to_string()),
                }
            }
        }
    }
    Ok(report(plan, &cores, &found, &limits))
}

fn report(plan: &Plan, cores: &[usize], found: &Found, limits: &BTreeMap<&'static str, Vec<f64>>) -> Report {
    let daemons: Vec<String> = plan.programs.iter().map(|program| program.name.clone()).collect();
    let line = |workload: &&'static Workload| {
        let mut line = Line::new(workload);
        for daemon in &daemons {
            if let Some((findings, failure)) = found.get(&(workload.name, daemon.clone())) {
                line.outcomes.insert(daemon.clone(), Outcome::of(findings, failure.clone()));
            }
        }
        line
    };
    let lines = plan.workloads.iter().map(line).collect();
    let limits = limits.iter().filter_map(|(name, rates)| Some((*name, median(rates.iter().copied())?))).collect();
    let (rounds, quick, absent) = (plan.rounds, plan.quick, plan.absent.clone());
    let machine = machine(cores);
    let verdicts = Vec::new();
    let mut report = Report { version: 1, machine, rounds, quick, daemons, absent, limits, lines, verdicts };
    report.conclude();
    report
}

fn machine(cores: &[usize]) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {} cores, Linux {}", cores.len(), kernel.trim())
}
