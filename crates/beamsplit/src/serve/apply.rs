//! A declared set of vGPUs.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use manager::placement::{self, Wish};
use manager::plan::{Declared, Plan, Planned, Verb};
use manager::{Machine, Refusal};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::routes::{self, App, Refused, VERSION, started, stopped};

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

/// How long all steps may take together: less than a connection lasts, so that who asked hears what was done.
const PATIENCE: Duration = Duration::from_secs(75);
/// What is said of a step that has to wait for the next time.
const LATE: &str = "What came before took all the time there was: apply it again";

/// Makes it so, and says what was done; or says what would have to be.
pub async fn apply(State(app): State<App>, Query(how): Query<How>, body: String) -> Result<Json<Value>, Refused> {
    let declared = Declared::parse(&body).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let plan = app.desk.look(move |keeper| Plan::of(&keeper.machine, &declared)).await?;
    let until = Instant::now() + PATIENCE;
    let mut steps = Vec::new();
    for planned in plan.steps {
        let done = match (how.assert, &planned.refused) {
            (true, refused) => refused.clone().map_or(Ok(()), Err),
            (false, _) => in_time(until, carry_out(&app, &planned, until)).await,
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

/// Begins it if there is time left.
async fn in_time(until: Instant, step: impl Future<Output = Result<(), Refused>>) -> Result<(), String> {
    match Instant::now() < until {
        true => step.await.map_err(|refused| refused.to_string()),
        false => Err(LATE.to_owned()),
    }
}

/// One step, to its end: what comes after it may need what it gives back.
async fn carry_out(app: &App, planned: &Planned, until: Instant) -> Result<(), Refused> {
    app.desk.command(planned.verb.event()).await?;
    let until = until.min(Instant::now() + routes::PATIENCE);
    match planned.verb {
        Verb::Start { uuid } => started(app, uuid, until).await.map(drop),
        Verb::Stop { uuid } => stopped(app, uuid, until).await.map(drop),
        Verb::Define { .. } | Verb::Modify { .. } | Verb::Undefine { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::sleep_until;

    #[tokio::test]
    async fn what_there_is_no_time_for_is_not_begun_and_told_of() {
        let (begun, until) = (Cell::new(0), Instant::now() + Duration::from_millis(20));
        let slow = || async {
            begun.set(begun.get() + 1);
            sleep_until(until).await;
            Ok(())
        };
        let first = in_time(until, slow()).await;
        let next = [in_time(until, slow()).await, in_time(until, slow()).await];
        assert!(begun.get() <= 1 && next.iter().all(|done| *done == Err(LATE.to_owned())), "{first:?} {next:?}");
        let soon = Instant::now() + Duration::from_secs(3600);
        assert_eq!(in_time(soon, async { Ok(()) }).await, Ok(()));
    }
}
