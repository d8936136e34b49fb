//! What can be asked and ordered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use manager::attachment::Attachment;
use manager::grant::{CONTROL_SOCKET, Grant};
use manager::machine::{Outcome, Status};
use manager::vgpu::Start;
use manager::{Definition, Event, Refusal, State as Life, Uuid};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use viewer::Right;

use super::aside::Aside;
use super::desk::{Desk, Failure};
use super::device::Devices;
use super::foreign::Foreign;
use super::http::MAX_BODY;
use super::keeper::Keeper;
use super::{ask, log, metrics, view};

/// Version of the answers; each has it.
pub const VERSION: u32 = 1;
/// How long an answer waits for a device that starts or stops.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The most of a log that is told at once.
const LOG_PART: u64 = 256 << 10;

/// How many clients have many devices asked for them at once; the others wait. What all devices say is held meanwhile.
const CROWDS: usize = 4;

/// Bytes of a refusal that somebody else worded.
const MAX_REFUSAL: usize = 4096;

/// What answers are made of.
#[derive(Clone)]
pub struct App {
    /// The way to the machine.
    pub desk: Desk,
    /// The folders of devices.
    pub devices: Devices,
    /// Places for those who have many devices asked at once.
    pub crowd: Arc<Semaphore>,
    /// The place of who looks at what memory processes have.
    pub scale: Aside,
    foreign: Foreign,
    pictures: ask::Room,
    reload: mpsc::Sender<Reload>,
}

/// One who wants the files to be read again, and to hear what came of it.
pub type Reload = oneshot::Sender<Result<(), String>>;

impl App {
    /// An application, and those who ask it for the files to be read again.
    pub fn new(desk: Desk, devices: Devices) -> (Self, mpsc::Receiver<Reload>) {
        let (reload, reloads) = mpsc::channel(1);
        let crowd = Arc::new(Semaphore::new(CROWDS));
        let foreign = Foreign::new(&devices.runtime);
        let (scale, pictures) = (Aside::default(), ask::Room::default());
        (App { desk, devices, crowd, scale, foreign, pictures, reload }, reloads)
    }
}

/// What is said to one who asked for what is not done.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    code: &'static str,
    why: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refused {
    fn new(status: StatusCode, code: &'static str, why: impl Into<String>) -> Self {
        Refused { status, code, why: why.into() }
    }

    fn invalid(why: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", why)
    }

    fn unavailable(why: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) | Refusal::InUse { .. } | Refusal::Busy(_) => StatusCode::CONFLICT,
            Refusal::NoCapacity { .. } | Refusal::NoInstance { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refused::new(status, refusal.code(), refusal.to_string())
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::NotSaved(_) => Refused::new(StatusCode::SERVICE_UNAVAILABLE, "not-saved", failure.to_string()),
            Failure::Ending => Refused::unavailable(failure.to_string()),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "version": VERSION, "error": self.why, "code": self.code }))).into_response()
    }
}

type Answer = Result<Json<Value>, Refused>;

/// Everything that is answered.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/gpus", get(gpus))
        .route("/v1/types", get(types))
        .route("/v1/types.toml", get(types_file))
        .route("/v1/vgpus", get(list).post(create))
        .route("/v1/vgpus/{vgpu}", get(show).patch(modify).delete(undefine))
        .route("/v1/vgpus/{vgpu}/start", post(start))
        .route("/v1/vgpus/{vgpu}/stop", post(stop))
        .route("/v1/vgpus/{vgpu}/attachment", get(attachment))
        .route("/v1/vgpus/{vgpu}/screenshot", get(screenshot))
        .route("/v1/vgpus/{vgpu}/stats", get(stats))
        .route("/v1/vgpus/{vgpu}/log", get(read_log))
        .route("/v1/top", get(top))
        .route("/v1/metrics", get(metrics))
        .route("/v1/apply", post(super::apply::apply))
        .route("/v1/reload", post(reload))
        .fallback(async |uri: Uri| {
            Refused::new(StatusCode::NOT_FOUND, "not-found", format!("There is no {}", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let why = format!("{} does not take {method}", uri.path());
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "invalid", why)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::map_response(refusals_in_json))
        // Whoever reaches the socket may do all.
        .layer(Extension(Right::Control))
        .with_state(app)
}

/// What is refused before it comes to us, as a path that is no text, is told like all else.
pub async fn refusals_in_json(response: Response) -> Response {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let status = response.status();
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MAX_REFUSAL).await.unwrap_or_default();
    let why = match String::from_utf8_lossy(&text) {
        text if text.is_empty() => status.canonical_reason().unwrap_or("Refused").to_owned(),
        text => text.into_owned(),
    };
    Refused::new(status, if status == StatusCode::NOT_FOUND { "not-found" } else { "invalid" }, why).into_response()
}

/// `gpus`, see [`router`].
pub async fn gpus(State(app): State<App>) -> Answer {
    let gpus = app.desk.look(|keeper| json!(keeper.machine.gpus())).await?;
    Ok(Json(json!({ "version": VERSION, "gpus": gpus })))
}

/// `types`, see [`router`].
pub async fn types(State(app): State<App>) -> Answer {
    let types = app.desk.look(|keeper| {
        let machine = &keeper.machine;
        json!(machine.offers().collect::<Vec<_>>())
    });
    Ok(Json(json!({ "version": VERSION, "types": types.await? })))
}

async fn types_file(State(app): State<App>) -> Result<Response, Refused> {
    let text = app.desk.look(|keeper| keeper.machine.types().print()).await?;
    Ok(([(header::CONTENT_TYPE, "application/toml")], text).into_response())
}

/// `list`, see [`router`].
pub async fn list(State(app): State<App>, Extension(right): Extension<Right>) -> Answer {
    let vgpus = app.desk.look(move |keeper| keeper.told_all(right)).await?;
    let foreign = app.foreign.list(&app.crowd).await;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Json(json!({ "version": VERSION, "host": host, "vgpus": vgpus, "foreign": foreign })))
}

/// The vGPU that a word in a path names.
async fn find(app: &App, word: String) -> Result<Uuid, Refused> {
    Ok(app.desk.look(move |keeper| view::find(&keeper.machine, &word)).await??)
}

fn told(keeper: &Keeper, uuid: Uuid, right: Right) -> Result<Value, Refusal> {
    let status = keeper.machine.status(uuid).ok_or_else(|| Refusal::NotFound(uuid.to_string()))?;
    let mut view = keeper.told(&status, keeper.time().get(&uuid), right);
    view["version"] = VERSION.into();
    Ok(view)
}

/// `show`, see [`router`].
pub async fn show(State(app): State<App>, Path(word): Path<String>, Extension(right): Extension<Right>) -> Answer {
    let uuid = find(&app, word).await?;
    Ok(Json(app.desk.look(move |keeper| told(keeper, uuid, right)).await??))
}

/// The words of a request in JSON.
fn words(body: &[u8]) -> Result<Map<String, Value>, Refused> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(words)) => Ok(words),
        Ok(_) => Err(Refused::invalid("Send a JSON object")),
        Err(error) => Err(Refused::invalid(format!("This is no JSON: {error}"))),
    }
}

fn flag(words: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, Refused> {
    match words.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(_) => Err(Refused::invalid(format!("{name} is true or false"))),
    }
}

fn size(words: &mut Map<String, Value>, name: &str) -> Result<Option<u64>, Refused> {
    match words.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(Refused::invalid(format!("{name} is a number of bytes"))),
        },
    }
}

async fn create(State(app): State<App>, body: Bytes) -> Result<Response, Refused> {
    let mut words = words(&body)?;
    let transient = flag(&mut words, "transient")?.unwrap_or(true);
    let run = flag(&mut words, "run")?.unwrap_or(false);
    let (least, most) = (size(&mut words, "min_memory")?, size(&mut words, "max_memory")?);
    if !words.contains_key("type") {
        let kind = app.desk.look(move |keeper| super::apply::place(&keeper.machine, least, most)).await??;
        words.insert("type".to_owned(), kind.into());
    }
    let uuid = words.remove("uuid").filter(|uuid| !uuid.is_null()).unwrap_or_else(|| Uuid::new_v4().to_string().into());
    words.insert("uuid".to_owned(), uuid);
    let definition = view::read(words).map_err(Refused::invalid)?;
    let uuid = definition.uuid;
    if transient && definition.start == Start::Auto {
        return Err(Refused::invalid("What comes up with the host is written down: define it"));
    }
    let event = match transient {
        true => Event::Create { definition, start: run },
        false => Event::Define { definition },
    };
    if app.desk.command(event).await? == Outcome::Unchanged {
        return Err(Refusal::Conflict(format!("There is a vGPU {uuid} already, and it is the same")).into());
    }
    if run && !transient {
        app.desk.command(Event::Start { uuid }).await?;
    }
    let view = match run {
        true => started(&app, uuid, Instant::now() + PATIENCE).await?,
        false => app.desk.look(move |keeper| told(keeper, uuid, Right::Control)).await??,
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

async fn modify(State(app): State<App>, Path(word): Path<String>, body: Bytes) -> Answer {
    let uuid = find(&app, word).await?;
    let changes = words(&body)?;
    // In one go: of two who change something at once both are heard.
    let changed = app.desk.change(move |keeper| {
        let definition = definition(keeper, uuid)?;
        let definition = view::changed(&definition, changes).map_err(Refused::invalid)?;
        keeper.command(Event::Modify { definition })?;
        Ok::<_, Refused>(told(keeper, uuid, Right::Control)?)
    });
    Ok(Json(changed.await??))
}

fn definition(keeper: &Keeper, uuid: Uuid) -> Result<Definition, Refusal> {
    let status = keeper.machine.status(uuid).ok_or_else(|| Refusal::NotFound(uuid.to_string()))?;
    keeper.machine.definition(uuid).cloned().ok_or_else(|| {
        let failed = if let Life::Failed { why } = status.state { Some(why) } else { None };
        let why = status.problem.or(failed).unwrap_or_else(|| "nobody knows why".to_owned());
        Refusal::Conflict(format!("The definition file of {uuid} cannot be read and is left as it is: {why}"))
    })
}

async fn undefine(State(app): State<App>, Path(word): Path<String>) -> Answer {
    let uuid = find(&app, word).await?;
    app.desk.command(Event::Undefine { uuid }).await?;
    Ok(Json(json!({ "version": VERSION, "uuid": uuid })))
}

/// `start`, see [`router`].
pub async fn start(State(app): State<App>, Path(word): Path<String>) -> Answer {
    let uuid = find(&app, word).await?;
    app.desk.command(Event::Start { uuid }).await?;
    started(&app, uuid, Instant::now() + PATIENCE).await.map(Json)
}

/// Waits until it runs, and says what came of it.
pub async fn started(app: &App, uuid: Uuid, until: Instant) -> Result<Value, Refused> {
    let status = settled(app, uuid, until, |status| matches!(status.state, Life::Starting | Life::Stopping)).await?;
    match status.map(|status| status.state) {
        Some(Life::Running | Life::Held { .. }) => {
            Ok(app.desk.look(move |keeper| told(keeper, uuid, Right::Control)).await??)
        }
        Some(Life::Failed { why }) => Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "failed", why)),
        Some(Life::Starting | Life::Stopping) => {
            Err(Refused::unavailable("It did not start in time; beamsplit log says more"))
        }
        Some(Life::Defined) | None => Err(Refused::unavailable("It was stopped meanwhile")),
    }
}

/// `stop`, see [`router`].
pub async fn stop(State(app): State<App>, Path(word): Path<String>) -> Answer {
    let uuid = find(&app, word).await?;
    app.desk.command(Event::Stop { uuid }).await?;
    stopped(&app, uuid, Instant::now() + PATIENCE).await.map(Json)
}

/// Waits until nothing of it is left, and says what came of it.
pub async fn stopped(app: &App, uuid: Uuid, until: Instant) -> Result<Value, Refused> {
    let status = settled(app, uuid, until, |status| status.state == Life::Stopping).await?;
    match status.map(|status| status.state) {
        Some(Life::Stopping) => {
            Err(Refused::unavailable("Its processes did not end in time; they are still being ended"))
        }
        Some(_) => Ok(app.desk.look(move |keeper| told(keeper, uuid, Right::Control)).await??),
        None => Ok(json!({ "version": VERSION, "uuid": uuid })),
    }
}

/// Waits as long as it is on its way, and no longer than until then.
async fn settled(
    app: &App,
    uuid: Uuid,
    until: Instant,
    on_its_way: fn(&Status) -> bool,
) -> Result<Option<Status>, Refused> {
    let mut changes = app.desk.changes();
    loop {
        // Seen before the look, so that what changes during it is one more change.
        changes.borrow_and_update();
        let status = app.desk.look(move |keeper| keeper.machine.status(uuid)).await?;
        if !status.as_ref().is_some_and(on_its_way) {
            return Ok(status);
        }
        match tokio::time::timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Failure::Ending.into()),
            Err(_) => return Ok(status),
        }
    }
}

async fn attachment(State(app): State<App>, Path(word): Path<String>) -> Answer {
    let uuid = find(&app, word).await?;
    let folder = app.devices.folder(uuid);
    let told = app.desk.look(move |keeper| {
        let status = keeper.machine.status(uuid).ok_or_else(|| Refusal::NotFound(uuid.to_string()))?;
        let running = matches!(status.state, Life::Running | Life::Held { .. });
        let grant = match status.grant {
            Some(grant) => grant,
            None => Grant::resolve(&definition(keeper, uuid)?, keeper.machine.types())?,
        };
        let attachment = Attachment::new(&grant, &folder);
        let mut told = attachment.describe();
        told["uuid"] = uuid.to_string().into();
        told["running"] = running.into();
        Ok::<_, Refusal>(told)
    });
    Ok(Json(told.await??))
}

/// Where a device that runs is asked, and which process has to answer.
async fn control(app: &App, word: String) -> Result<(PathBuf, i32), Refused> {
    let uuid = find(app, word.clone()).await?;
    match app.desk.look(move |keeper| keeper.process_of(uuid)).await? {
        Some(process) => Ok((app.devices.folder(uuid).join(CONTROL_SOCKET), process.pid)),
        None => {
            let why = format!("It does not run: start it first (beamsplit start {word})");
            Err(Refused::new(StatusCode::CONFLICT, "conflict", why))
        }
    }
}

/// Which picture, and how wide.
#[derive(Deserialize)]
pub struct Screenshot {
    #[serde(default)]
    head: u32,
    width: Option<u32>,
}

/// `screenshot`, see [`router`].
pub async fn screenshot(
    State(app): State<App>,
    Path(word): Path<String>,
    Query(asked): Query<Screenshot>,
) -> Result<Response, Refused> {
    let (socket, pid) = control(&app, word).await?;
    let width = asked.width.map_or(String::new(), |width| format!("&width={width}"));
    let target = format!("/v1/screenshot?head={}{width}", asked.head);
    let answer = ask::picture(&socket, pid, &target, &app.pictures).await?;
    if answer.status != 200 {
        return Err(passed_on(&answer));
    }
    Ok(([(header::CONTENT_TYPE, "image/png")], answer.body).into_response())
}

impl From<ask::Silent> for Refused {
    fn from(silent: ask::Silent) -> Self {
        Refused::unavailable(silent.to_string())
    }
}

/// A device's refusal in its own words.
fn passed_on(answer: &ask::Answer) -> Refused {
    let told: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let why = told.as_ref().and_then(|told| told["error"].as_str()).unwrap_or("The device refused").to_owned();
    let status = StatusCode::from_u16(answer.status).ok().filter(|status| status.is_client_error());
    Refused::new(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "device", why)
}

/// `stats`, see [`router`].
pub async fn stats(State(app): State<App>, Path(word): Path<String>) -> Answer {
    let (socket, pid) = control(&app, word).await?;
    Ok(Json(ask::stats(&socket, pid).await?))
}

#[derive(Deserialize)]
struct Log {
    from: Option<u64>,
}

async fn read_log(State(app): State<App>, Path(word): Path<String>, Query(asked): Query<Log>) -> Answer {
    let uuid = find(&app, word).await?;
    let (text, next) = match log::part(&app.devices.folder(uuid).join(log::FILE), asked.from, LOG_PART) {
        Ok(part) => part,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (String::new(), 0),
        Err(error) => return Err(Refused::unavailable(format!("Cannot read its log: {error}"))),
    };
    Ok(Json(json!({ "version": VERSION, "uuid": uuid, "text": text, "next": next })))
}

async fn top(State(app): State<App>) -> Answer {
    Ok(Json(json!({ "version": VERSION, "vgpus": metrics::sample(&app).await? })))
}

async fn metrics(State(app): State<App>) -> Result<Response, Refused> {
    let text = metrics::text(&metrics::sample(&app).await?);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn reload(State(app): State<App>) -> Answer {
    let (answer, answered) = oneshot::channel();
    let ending = || Refused::from(Failure::Ending);
    app.reload.send(answer).await.map_err(|_| ending())?;
    answered.await.map_err(|_| ending())?.map_err(Refused::invalid)?;
    Ok(Json(json!({ "version": VERSION })))
}
