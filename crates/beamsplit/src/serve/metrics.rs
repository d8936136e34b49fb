//! What each device counted, for `top` and for Prometheus (OpenMetrics).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use host::memory::{self, OfSession, Resident};
use host::processes::Processes;
use manager::State;
use manager::grant::CONTROL_SOCKET;
use manager::machine::Status;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use viewer::Right;

use super::aside::Aside;
use super::ask;
use super::desk::Failure;
use super::keeper::Keeper;
use super::routes::App;
use super::slices::Slice;
use super::view;

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a device may take: one that hangs is left out, and keeps nobody waiting.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the kernel may take to say what memory processes have.
const WEIGHING: Duration = Duration::from_secs(5);
/// The sections of a device's statistics that hold counters.
const SECTIONS: [&str; 3] = ["device", "input", "touch"];
/// What a device counts that falls again; all else only grows.
const GAUGES: [&str; 7] =
    ["charged_bytes", "image_bytes", "rendered_bytes", "host_blob_bytes", "resources", "contexts", "blob_bytes"];
/// Names of one kind and buckets of a histogram that are taken of a device, which may be hostile: more than there are.
const MAX_SAMPLES: usize = 64;

/// Every vGPU, with the statistics of those that run.
pub async fn sample(app: &App) -> Result<Vec<Value>, Failure> {
    // It is never closed.
    let _place = app.crowd.acquire().await;
    let mut vgpus = app.desk.look(|keeper| keeper.told_all(Right::Look)).await?;
    let mut asking = JoinSet::new();
    for (index, vgpu) in vgpus.iter().enumerate().filter(|(_, vgpu)| runs(vgpu)) {
        let Some(uuid) = vgpu["uuid"].as_str().and_then(|text| text.parse().ok()) else { continue };
        let Some(pid) = vgpu["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok()) else { continue };
        let socket = app.devices.folder(uuid).join(CONTROL_SOCKET);
        asking.spawn(async move { (index, timeout(PATIENCE, ask::stats(&socket, pid)).await) });
    }
    for (index, stats) in asking.join_all().await {
        if let Ok(Ok(stats)) = stats {
            vgpus[index]["stats"] = stats;
        }
    }
    weigh(&mut vgpus, &app.scale).await;
    Ok(vgpus)
}

/// Says what memory the processes of those that run have, if the kernel says so in time.
async fn weigh(vgpus: &mut [Value], scale: &Aside) {
    let pid = |vgpu: &Value| i32::try_from(vgpu["pid"].as_u64()?).ok();
    let leaders: Vec<i32> = vgpus.iter().filter(|vgpu| runs(vgpu)).filter_map(pid).collect();
    let looked = scale.run(WEIGHING, move || memory::of_sessions(&Processes::default(), &leaders)).await;
    let Some(sessions) = looked else { return };
    for vgpu in vgpus {
        let Some(OfSession { leader, group, others }) = pid(vgpu).and_then(|pid| sessions.get(&pid)) else { continue };
        let told = |of: &Resident| json!({ "anonymous": of.anonymous, "shared": of.shared });
        vgpu["processes"] = json!({ "device": told(leader), "beside": told(group), "renderers": told(others) });
    }
}

fn runs(vgpu: &Value) -> bool {
    matches!(vgpu["state"].as_str(), Some("running" | "held"))
}

/// The families of metrics, each with its samples: OpenMetrics wants those of one family together.
#[derive(Default)]
struct Families(BTreeMap<String, (Kind, String)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            // Each sample of a histogram has its own.
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        }
    }
}

impl Families {
    fn add(&mut self, name: &str, kind: Kind, labels: &str, value: impl std::fmt::Display) {
        self.sample(name, kind, kind.suffix(), labels, value);
    }

    fn sample(&mut self, name: &str, kind: Kind, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let (_, samples) = self.0.entry(name.to_owned()).or_insert((kind, String::new()));
        // Writing to a string does not fail.
        let _ = writeln!(samples, "{name}{suffix}{{{labels}}} {value}");
    }

    /// A histogram of seconds; `None` where the device's word is none.
    fn histogram(&mut self, name: &str, labels: &str, told: &Value) -> Option<()> {
        let numbers = |name| told[name].as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
        let (bounds, counts, sum): (_, _, u64) = (numbers("bounds_us")?, numbers("counts")?, told["sum_us"].as_u64()?);
        if counts.len() != bounds.len() + 1
            || counts.len() > MAX_SAMPLES
            || !bounds.is_sorted_by(|one, next| one < next)
        {
            return None;
        }
        let mut all = 0u64;
        for (at, count) in counts.iter().enumerate() {
            all = all.saturating_add(*count);
            let bound = bounds.get(at).map_or("+Inf".to_owned(), |bound| format!("{:?}", *bound as f64 / 1e6));
            self.sample(name, Kind::Histogram, "_bucket", &format!("{labels},le=\"{bound}\""), all);
        }
        self.sample(name, Kind::Histogram, "_sum", labels, sum as f64 / 1e6);
        self.sample(name, Kind::Histogram, "_count", labels, all);
        Some(())
    }

    fn print(&self) -> String {
        let mut text = String::new();
        for (name, (kind, samples)) in &self.0 {
            let _ = write!(text, "# TYPE {name} {}\n{samples}", kind.word());
        }
        text.push_str("# EOF\n");
        text
    }
}

/// The sample as OpenMetrics text.
pub fn text(vgpus: &[Value]) -> String {
    let mut families = Families::default();
    for vgpu in vgpus.iter().filter(|vgpu| vgpu["uuid"].is_string()) {
        let labels = label("uuid", &vgpu["uuid"]);
        let about: Vec<_> = ["uuid", "name", "type", "gpu"].map(|name| label(name, &vgpu[name])).into();
        families.add("beamsplit_vgpu", Kind::Info, &about.join(","), 1);
        for state in ["defined", "starting", "running", "stopping", "failed", "held"] {
            let labels = format!("{labels},state=\"{state}\"");
            families.add("beamsplit_vgpu_state", Kind::Gauge, &labels, u8::from(vgpu["state"] == state));
        }
        number(&mut families, "beamsplit_vgpu_memory_bytes", Kind::Gauge, &labels, &vgpu["memory"]);
        number(&mut families, "beamsplit_vgpu_crashes", Kind::Counter, &labels, &vgpu["crashes"]);
        if let Some(share) = vgpu["share"].as_object() {
            seconds(&mut families, "beamsplit_gpu_time_used_seconds", &labels, share.get("used_ns"));
            seconds(&mut families, "beamsplit_gpu_time_waited_seconds", &labels, share.get("waited_ns"));
        }
        device(&mut families, &labels, &vgpu["stats"]);
        let named: Vec<_> = ["uuid", "name", "type"].map(|name| label(name, &vgpu[name])).into();
        traffic(&mut families, &named.join(","), &vgpu["stats"]);
        for (process, kinds) in vgpu["processes"].as_object().into_iter().flatten() {
            for (kind, bytes) in kinds.as_object().into_iter().flatten() {
                let labels = format!("{},process=\"{process}\",kind=\"{kind}\"", named.join(","));
                number(&mut families, "beamsplit_process_memory_bytes", Kind::Gauge, &labels, bytes);
            }
        }
    }
    families.print()
}

fn device(families: &mut Families, labels: &str, stats: &Value) {
    number(families, "beamsplit_device_uptime_seconds", Kind::Gauge, labels, &stats["uptime_seconds"]);
    for section in SECTIONS {
        // A hostile one's counter of a name that is a gauge's already would spoil the text for all.
        let members = stats[section].as_object().into_iter().flatten();
        let members = members.filter(|(name, _)| is_name(name) && *name != "uptime_seconds");
        for (name, value) in members.take(MAX_SAMPLES) {
            let kind = if GAUGES.contains(&name.as_str()) { Kind::Gauge } else { Kind::Counter };
            number(families, &format!("beamsplit_{section}_{name}"), kind, labels, value);
        }
    }
    number(families, "beamsplit_viewer_starts", Kind::Counter, labels, &stats["viewer"]["starts"]);
    for kind in ["gl", "vk"] {
        let labels = format!("{labels},kind=\"{kind}\"");
        let life = &stats["renderer"][kind];
        number(families, "beamsplit_renderer_starts", Kind::Counter, &labels, &life["starts"]);
        number(families, "beamsplit_renderer_ends", Kind::Counter, &labels, &life["ends"]);
    }
}

/// What a device's commands were, how long they took, and what memory it takes.
fn traffic(families: &mut Families, labels: &str, stats: &Value) {
    let sections = [
        ("commands", "beamsplit_gpu_commands", Kind::Counter, "command"),
        ("errors", "beamsplit_gpu_errors", Kind::Counter, "command"),
        ("memory", "beamsplit_gpu_memory_bytes", Kind::Gauge, "kind"),
    ];
    for (section, family, kind, word) in sections {
        let members = stats[section].as_object().into_iter().flatten().filter(|(name, _)| is_name(name));
        for (name, value) in members.take(MAX_SAMPLES) {
            number(families, family, kind, &format!("{labels},{word}=\"{name}\""), value);
        }
    }
    for name in ["queue_latency", "fence_latency"] {
        families.histogram(&format!("beamsplit_gpu_{name}_seconds"), labels, &stats[name]);
    }
}

fn number(families: &mut Families, name: &str, kind: Kind, labels: &str, value: &Value) {
    // A counter that is negative would spoil the text for all.
    if let Some(value) = value.as_u64() {
        families.add(name, kind, labels, value);
    }
}

fn seconds(families: &mut Families, name: &str, labels: &str, nanoseconds: Option<&Value>) {
    if let Some(nanoseconds) = nanoseconds.and_then(Value::as_u64) {
        families.add(name, Kind::Counter, labels, nanoseconds as f64 / 1e9);
    }
}

/// Devices choose the names of what they count, and one may be hostile: what OpenMetrics puts behind names is no part of one.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !["_total", "_created", "_bucket", "_count", "_sum", "_info"].iter().any(|end| name.ends_with(end))
}

/// `name="value"`, with what would end it escaped.
fn label(name: &str, value: &Value) -> String {
    let value = value.as_str().unwrap_or_default();
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

impl Keeper {
    /// Every vGPU as it is told to one who has this right.
    pub fn told_all(&self, right: Right) -> Vec<Value> {
        let time = self.time();
        self.machine.list().map(|status| self.told(&status, time.get(&status.uuid), right)).collect()
    }

    /// One of them. Who may only look hears of a token that may only look.
    pub fn told(&self, status: &Status, time: Option<&Slice>, right: Right) -> Value {
        let mut told = view::vgpu(&self.machine, status, time);
        let lives = matches!(status.state, State::Running | State::Held { .. });
        let token = self.key_of(status.uuid, right).filter(|_| lives);
        let address = self.console_of(status.uuid).filter(|_| lives);
        told["console"] = match (address, token) {
            // The page takes it out of its address before anybody can see it.
            (Some(address), Some(token)) => json!(format!("{address}#token={token}")),
            (address, _) => json!(address),
        };
        told["token"] = json!(token);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_and_labels_cannot_break_out() {
        let vgpu = |uuid: &str, name: &str| {
            let stats = json!({
                "uptime_seconds": 3,
                "device": { "commands": 7, "resources": 2, "bad name\n": 1, "nested": {} },
                "renderer": { "gl": { "starts": 1, "ends": 0 } },
            });
            json!({ "uuid": uuid, "name": name, "type": "t", "state": "running", "memory": 1024, "crashes": 0, "stats": stats,
                    "share": { "used_ns": 1_500_000_000u64, "waited_ns": 0 } })
        };
        let text = text(&[vgpu("a", "x\"} 1\n# EOF\\"), vgpu("b", "desk")]);
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF\n").count() == 1, "{text}");
        assert!(text.contains("name=\"x\\\"} 1\\n# EOF\\\\\""), "{text}");
        let commands = "# TYPE beamsplit_device_commands counter\n\
                        beamsplit_device_commands_total{uuid=\"a\"} 7\n\
                        beamsplit_device_commands_total{uuid=\"b\"} 7\n";
        assert!(text.contains(commands), "{text}");
        assert!(text.contains("beamsplit_gpu_time_used_seconds_total{uuid=\"a\"} 1.5\n"), "{text}");
        assert!(text.contains("beamsplit_device_resources{uuid=\"a\"} 2\n"), "{text}");
        assert!(text.contains("beamsplit_renderer_starts_total{uuid=\"a\",kind=\"gl\"} 1\n"), "{text}");
        assert!(!text.contains("bad name") && !text.contains("nested"), "{text}");
        // Each family is introduced once.
        let mut heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = heads.len();
        heads.dedup();
        assert_eq!(heads.len(), all);
    }

    fn vgpu(stats: Value) -> Value {
        json!({ "uuid": "a", "name": "x\"", "type": "t", "stats": stats })
    }

    #[test]
    fn commands_and_latencies_are_told_as_counters_and_histograms() {
        let times = json!({ "bounds_us": [1, 4, 1_048_576], "counts": [1, 0, 2, 4], "sum_us": 1_500_000 });
        let text = text(&[vgpu(json!({
            "commands": { "resource_flush": 7, "submit_3d": 0, "bad name": 1, "get_edid": -1 },
            "errors": { "resource_flush": 2 },
            "memory": { "images": 4096 },
            "fence_latency": times,
        }))]);
        assert!(!text.contains("-1"), "{text}");
        let labels = r#"uuid="a",name="x\"",type="t""#;
        let expected = [
            "# TYPE beamsplit_gpu_commands counter",
            "beamsplit_gpu_commands_total{L,command=\"resource_flush\"} 7",
            "beamsplit_gpu_commands_total{L,command=\"submit_3d\"} 0",
            "# TYPE beamsplit_gpu_errors counter",
            "beamsplit_gpu_errors_total{L,command=\"resource_flush\"} 2",
            "# TYPE beamsplit_gpu_fence_latency_seconds histogram",
            "beamsplit_gpu_fence_latency_seconds_bucket{L,le=\"1e-6\"} 1",
            "beamsplit_gpu_fence_latency_seconds_bucket{L,le=\"4e-6\"} 1",
            "beamsplit_gpu_fence_latency_seconds_bucket{L,le=\"1.048576\"} 3",
            "beamsplit_gpu_fence_latency_seconds_bucket{L,le=\"+Inf\"} 7",
            "beamsplit_gpu_fence_latency_seconds_sum{L} 1.5",
            "beamsplit_gpu_fence_latency_seconds_count{L} 7",
            "# TYPE beamsplit_gpu_memory_bytes gauge",
            "beamsplit_gpu_memory_bytes{L,kind=\"images\"} 4096",
            "# TYPE beamsplit_vgpu info",
        ];
        let expected = expected.map(|line| line.replace('L', labels) + "\n").concat();
        assert!(text.starts_with(&expected) && text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn what_processes_have_is_told_by_what_they_are() {
        let told = json!({ "anonymous": 7, "shared": 9 });
        let vgpu = json!({ "uuid": "a", "name": "x", "type": "t", "processes": { "device": told, "renderers": told } });
        let labels = "uuid=\"a\",name=\"x\",type=\"t\"";
        let line = |process: &str, kind: &str, bytes: u64| {
            format!("beamsplit_process_memory_bytes{{{labels},process=\"{process}\",kind=\"{kind}\"}} {bytes}\n")
        };
        let expected = [
            "# TYPE beamsplit_process_memory_bytes gauge\n".to_owned(),
            line("device", "anonymous", 7),
            line("device", "shared", 9),
            line("renderers", "anonymous", 7),
            line("renderers", "shared", 9),
        ];
        let text = text(&[vgpu]);
        assert!(text.contains(&expected.concat()), "{text}");
    }

    #[test]
    fn a_device_cannot_count_what_no_counter_can_be_or_under_a_name_that_is_another_s() {
        let text = text(&[vgpu(json!({ "device": {
            "frames": 1, "frames_total": 2, "frames_created": 3, "down": -1, "part": 0.5, "huge": 1e300, "word": "1" } }))]);
        let counted: Vec<_> = text.lines().filter(|line| line.starts_with("beamsplit_device_")).collect();
        assert_eq!(counted, ["beamsplit_device_frames_total{uuid=\"a\"} 1"]);
        // However many it has.
        let many: serde_json::Map<_, _> = (0..1000).map(|at| (format!("c{at}"), json!(1))).collect();
        assert_eq!(
            super::text(&[vgpu(json!({ "device": many }))]).matches("beamsplit_device_c").count(),
            2 * MAX_SAMPLES
        );
    }

    #[test]
    fn a_device_cannot_make_a_counter_of_a_gauge() {
        let text = text(&[vgpu(json!({ "device": { "uptime_seconds": 1 } })), vgpu(json!({ "uptime_seconds": 2 }))]);
        assert!(text.contains("# TYPE beamsplit_device_uptime_seconds gauge\n"), "{text}");
        assert!(!text.contains("uptime_seconds_total"), "{text}");
    }

    #[test]
    fn a_histogram_that_is_none_is_left_out() {
        for told in [
            json!({ "bounds_us": [1, 4], "counts": [1, 2], "sum_us": 1 }),
            json!({ "bounds_us": [4, 1], "counts": [1, 2, 3], "sum_us": 1 }),
            json!({ "bounds_us": [1], "counts": [1, -2], "sum_us": 1 }),
            json!({ "bounds_us": [1], "counts": [1, 2] }),
            json!({ "bounds_us": (0..64).collect::<Vec<_>>(), "counts": vec![0; 65], "sum_us": 1 }),
            json!([]),
        ] {
            let text = text(&[vgpu(json!({ "queue_latency": told }))]);
            assert!(!text.contains("latency"), "{text}");
        }
        // Counts that cannot be are told as the most there is, and end nothing.
        let told = json!({ "bounds_us": [1], "counts": [u64::MAX, u64::MAX], "sum_us": 1 });
        let text = text(&[vgpu(json!({ "queue_latency": told }))]);
        assert!(text.contains("_count{uuid=\"a\",name=\"x\\\"\",type=\"t\"} 18446744073709551615\n"), "{text}");
    }
}
