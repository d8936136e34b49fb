//! Measures vhost-user GPU daemons side by side, on this machine, in one table.

mod peers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::manager;
use bench::process;
use bench::run::{Plan, run};
use bench::shares;
use bench::table;
use bench::three_d;
use bench::viewer;
use bench::workload::{self, Budget, Workload};
use clap::Parser;

/// Measures vhost-user GPU daemons side by side: each workload on each daemon in turn, pinned, medians of rounds
#[derive(Parser)]
#[command(name = "beamsplit-bench", version)]
struct Arguments {
    /// Beamsplit's daemon, with its options if it needs others [default: beamsplit-device beside this program]
    #[arg(long, value_name = "PATH")]
    device: Option<String>,
    /// A daemon to compare with: `qemu=PATH`, `null=PATH`, or another name and its command line [default: all that are found]
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<String>,
    /// Only these workloads
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<String>,
    /// How often everything is done
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of one run of one workload
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    time: u64,
    /// A smoke run: one short round
    #[arg(long)]
    quick: bool,
    /// Writes everything that was found as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown, too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Builds the peer that is a crate by cargo first, if it is not there
    #[arg(long)]
    install_peers: bool,
    /// Says which workloads there are
    #[arg(long)]
    list: bool,
    /// Measures the 3D library that is found here instead: on one thread, isolated, behind its own test server
    #[arg(long)]
    three_d: bool,
    /// Measures how evenly the software GPU is shared between so many devices at most instead (see BEAMSPLIT_INSIDE)
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "15")]
    shares: Option<usize>,
    /// Measures the manager of vGPUs instead: start and stop of one, a list of a thousand
    #[arg(long)]
    manager: bool,
    /// Draws at the socket of a device that runs: so many frames, and before so many pictures of 16 MiB that are kept
    #[arg(long, hide = true, num_args = 3, value_names = ["SOCKET", "FRAMES", "PICTURES"])]
    draw: Vec<String>,
    /// One place of these, in this process
    #[arg(long, hide = true)]
    three_d_place: Option<String>,
    /// A scene, a way to draw it, and how much of it, in this process
    #[arg(long, hide = true, num_args = 3)]
    three_d_run: Vec<String>,
    /// What the library has for `gl` or `vk`, found out in this process
    #[arg(long, hide = true)]
    three_d_probe: Option<String>,
}

fn main() -> ExitCode {
    if let Err(error) = three_d::serve_if_asked() {
        eprintln!("beamsplit-bench: {error}");
        return ExitCode::FAILURE;
    }
    let result =
        if viewer::is_wanted() { viewer::run().context("Cannot be a viewer") } else { measure(&Arguments::parse()) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beamsplit-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for workload in workload::ALL {
            println!("{:24} {} ({})", workload.name, workload.what, workload.unit);
        }
        return Ok(());
    }
    let folder = tempfile::tempdir().context("Cannot make a folder for sockets")?;
    let budget = Duration::from_millis(if arguments.quick { 50 } else { arguments.time });
    if let Some(place) = &arguments.three_d_place {
        // All that it starts stays there too.
        if let Some(&core) = process::cores()?.last() {
            process::pin(core)?;
        }
        print!("{}", three_d::rows(place, folder.path(), budget)?);
        return Ok(());
    }
    if let [socket, frames, pictures] = arguments.draw.as_slice() {
        let number = |word: &String| word.parse().with_context(|| format!("{word} is no number"));
        return Ok(bench::draw::run(socket.as_ref(), number(frames)?, number(pictures)?)?);
    }
    if let Some(kind) = &arguments.three_d_probe {
        print!("{}", three_d::programs::probed(kind)?);
        return Ok(());
    }
    if let [scene, way, much] = arguments.three_d_run.as_slice() {
        let much = much.parse().context("How much is a number")?;
        println!("{}", three_d::programs::rate(scene, way, much, folder.path())?);
        return Ok(());
    }
    if arguments.three_d {
        let rounds = if arguments.quick { 1 } else { arguments.rounds };
        print!("{}", three_d::table(rounds, budget)?);
        println!("\n{}", three_d::programs::table(rounds, arguments.quick)?);
        return Ok(());
    }
    if let Some(most) = arguments.shares {
        let seconds = if arguments.quick { 2 } else { 10 };
        print!("{}", shares::table(&shares::Programs::find()?, seconds, most)?);
        return Ok(());
    }
    if arguments.manager {
        print!("{}", manager::table(if arguments.quick { 3 } else { 30 })?);
        return Ok(());
    }
    let plan = plan(arguments)?;
    let report = run(&plan, folder.path(), |what| eprintln!("{what}"))?;
    let text = table::markdown(&report);
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, &text).with_context(|| format!("Cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report).context("Cannot write JSON")?;
        std::fs::write(path, json + "\n").with_context(|| format!("Cannot write {}", path.display()))?;
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let (mut programs, mut absent) = (Vec::new(), Vec::new());
    match &arguments.device {
        Some(line) => programs.push(peers::program("beamsplit", line)?),
        None => match peers::device() {
            Some(program) => programs.push(program),
            None => absent.push("beamsplit-device is not beside this program: build it, or --device PATH".into()),
        },
    }
    if arguments.peer.is_empty() {
        let (_, missing) = peers::find();
        if arguments.install_peers && !missing.is_empty() {
            peers::install()?;
        }
        let (found, missing) = peers::find();
        programs.extend(found);
        absent.extend(missing);
    }
    for peer in &arguments.peer {
        let (name, line) = peer.split_once('=').with_context(|| format!("--peer {peer}: write NAME=PATH"))?;
        match peers::program(name, line) {
            Ok(program) => programs.push(program),
            Err(error) => absent.push(format!("{name}: {error}")),
        }
    }
    if programs.is_empty() {
        bail!("There is no daemon to measure: {}", absent.join("; "));
    }
    let budget = if arguments.quick {
        Budget { time: Duration::from_millis(50), many: 2000, idle: Duration::from_secs(1) }
    } else {
        Budget { time: Duration::from_millis(arguments.time), many: 50_000, idle: Duration::from_secs(10) }
    };
    let rounds = if arguments.quick { 1 } else { arguments.rounds.max(1) };
    let workloads = chosen(&arguments.only)?;
    let limits = arguments.only.is_empty() || workloads.iter().any(|workload| workload.name.starts_with("frame"));
    Ok(Plan { programs, workloads, limits, rounds, budget, quick: arguments.quick, absent })
}

fn chosen(only: &[String]) -> Result<Vec<&'static Workload>> {
    let known = |name: &String| workload::ALL.iter().any(|workload| workload.name == name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        bail!("There is no workload {unknown}: --list names them");
    }
    Ok(workload::ALL
        .iter()
        .filter(|workload| only.is_empty() || only.iter().any(|name| name == workload.name))
        .collect())
}
