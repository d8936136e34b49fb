//! A declared set of vGPUs.

use axum::Json;
use axum::extract::{Query, State};
use manager::placement::{self, Wish};
use manager::plan::{Declared, Plan, Planned, Verb};
use manager::{Machine, Refusal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::routes::{App, Refused, VERSION, started, stopped};

/// The name of the type that fits best.
pub fn place(machine: &Machine, least: Option<u64>, most: Option<u64>) -> Result<String, Refusal> {
    placement::choose(machine, &Wish { least, most, ..Wish::default() }).map(|kind| kind.name)
}

/// Whether it is only compared.
#[derive(Deserialize)]
pub struct How {
    #[serde(default)]
    assert: bool,
}

/// Makes it so, and says what was done; or says what would have to be.
pub async fn apply(State(app): State<App>, Query(how): Query<How>, body: String) -> Result<Json<Value>, Refused> {
    let declared = Declared::parse(&body).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let plan = app.desk.look(move |keeper| Plan::of(&keeper.machine, &declared)).await?;
    let mut steps = Vec::new();
    for planned in plan.steps {
        let done = match (how.assert, &planned.refused) {
            (true, refused) => refused.clone().map_or(Ok(()), Err),
            (false, _) => carry_out(&app, &planned).await.map_err(|refused| refused.to_string()),
        };
        steps.push(json!({
            "step": planned.verb.to_string(),
            "uuid": planned.verb.uuid(),
            "because": planned.because,
            "error": done.err(),
        }));
    }
    Ok(Json(json!({ "version": VERSION, "steps": steps })))
}

/// One step, to its end: what comes after it may need what it gives back.
async fn carry_out(app: &App, planned: &Planned) -> Result<(), Refused> {
    app.desk.command(planned.verb.event()).await?;
    match planned.verb {
        Verb::Start { uuid } => started(app, uuid).await.map(drop),
        Verb::Stop { uuid } => stopped(app, uuid).await.map(drop),
        Verb::Define { .. } | Verb::Modify { .. } | Verb::Undefine { .. } => Ok(()),
    }
}
