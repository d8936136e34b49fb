//! What can be asked: `/v1/stats`, `/v1/heads`, `/v1/screenshot`, `/v1/resize`.

use std::io::Write;
use std::time::Instant;

use device::gpu::Capture;
use protocol::Format;
use protocol::edid::Mode;
use protocol::value::Channels;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Request, Response};
use super::mailbox::{Answer, Question};

/// Version of the answers; each listing carries it.
const VERSION: u32 = 1;

/// What can be said without asking the device's thread.
pub struct Facts {
    /// What the vGPU is called.
    pub name: String,
    /// When it started.
    pub started: Instant,
    /// What its parts say.
    pub sections: Sections,
}

/// Counters of the device and its viewer, as JSON objects by section.
pub type Sections = Box<dyn FnMut() -> serde_json::Map<String, Value> + Send>;

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// It is answered.
    Reply(Response),
    /// The device's thread has to be asked; a picture is told no wider than this.
    Ask(Question, u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    #[serde(default)]
    head: u32,
    width: u32,
    height: u32,
}

/// Decides about a request.
pub fn route(request: &Request, facts: &mut Facts) -> Action {
    decide(request, facts).unwrap_or_else(Action::Reply)
}

fn decide(request: &Request, facts: &mut Facts) -> Result<Action, Response> {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/stats") => Ok(Action::Reply(stats(facts))),
        ("GET", "/v1/heads") => Ok(Action::Ask(Question::Heads, 0)),
        ("GET", "/v1/screenshot") => {
            let head = request.number("head")?.unwrap_or(0);
            let widest = request.number("width")?.unwrap_or(u32::MAX);
            if widest == 0 {
                return Err(Response::error(400, "A picture is at least 1 wide"));
            }
            Ok(Action::Ask(Question::Screenshot { head }, widest))
        }
        ("POST", "/v1/resize") => {
            let Resize { head, width, height } = serde_json::from_slice(&request.body).map_err(|error| {
                Response::error(400, &format!("Send {{\"head\":0,\"width\":W,\"height\":H}}: {error}"))
            })?;
            let side = 1..=device::caps::IMAGE_SIZE;
            if !side.contains(&width) || !side.contains(&height) {
                return Err(Response::error(400, &format!("Width and height go from 1 to {}", side.end())));
            }
            Ok(Action::Ask(Question::Resize { head, width, height }, 0))
        }
        (_, "/v1/stats" | "/v1/heads" | "/v1/screenshot") => Err(Response::error(405, "Use GET")),
        (_, "/v1/resize") => Err(Response::error(405, "Use POST")),
        _ => Err(Response::error(404, "There are /v1/stats, /v1/heads, /v1/screenshot and /v1/resize")),
    }
}

fn stats(facts: &mut Facts) -> Response {
    let mut all = serde_json::Map::new();
    all.insert("version".to_owned(), json!(VERSION));
    all.insert("name".to_owned(), json!(facts.name));
    all.insert("pid".to_owned(), json!(std::process::id()));
    all.insert("uptime_seconds".to_owned(), json!(facts.started.elapsed().as_secs()));
    all.append(&mut (facts.sections)());
    Response::json(&Value::Object(all))
}

/// Puts the device's answer into words; a picture is made `widest` pixels wide if it is wider.
pub fn reply(answer: Answer, widest: u32) -> Response {
    match answer {
        Answer::Heads(heads) => {
            let entry = |(head, mode): (usize, &Mode)| json!({ "head": head, "width": mode.width, "height": mode.height, "refresh": mode.refresh });
            let heads: Vec<_> = heads.iter().enumerate().map(entry).collect();
            Response::json(&json!({ "version": VERSION, "heads": heads }))
        }
        Answer::Done => Response::json(&json!({ "version": VERSION })),
        Answer::Missing(why) => Response::error(404, why),
        Answer::Refused(why) => Response::error(409, why),
        Answer::Picture(picture) => match png(&picture, widest) {
            Ok(body) => Response { status: 200, content_type: "image/png", body },
            Err(error) => Response::error(500, &error.to_string()),
        },
    }
}

fn png(picture: &Capture, widest: u32) -> Result<Vec<u8>, png::EncodingError> {
    let width = picture.width.min(widest).max(1);
    // In proportion; a strip that is all width keeps one row.
    let height = u64::from(picture.height) * u64::from(width) / u64::from(picture.width.max(1));
    let (height, mut bytes) = (height.max(1) as u32, Vec::new());
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    // Row by row, so that a large picture is not in memory once more.
    for row in 0..height {
        stream.write_all(&rgb_row(picture, row, width, height))?;
    }
    stream.finish()?;
    drop(writer);
    Ok(bytes)
}

/// One row of the picture as it is at `width` times `height`: each pixel the mean of those that it stands for.
fn rgb_row(picture: &Capture, row: u32, width: u32, height: u32) -> Vec<u8> {
    let Channels { red, green, blue, .. } = picture.format.channels();
    let span = |at: u32, most: u32, all: u32| {
        let edge = |at: u32| (u64::from(at) * u64::from(all) / u64::from(most)) as usize;
        edge(at)..edge(at + 1).max(edge(at) + 1)
    };
    let stride = (picture.width * Format::BYTES_PER_PIXEL) as usize;
    let rows = span(row, height, picture.height);
    let (count, rows) = (rows.len(), &picture.pixels[rows.start * stride..rows.end * stride]);
    let mut rgb = Vec::with_capacity(width as usize * 3);
    for column in 0..width {
        let mut sums = [0u64; 3];
        let columns = span(column, width, picture.width);
        for row in rows.chunks_exact(stride) {
            for pixel in &row.as_chunks::<{ Format::BYTES_PER_PIXEL as usize }>().0[columns.clone()] {
                sums = [
                    sums[0] + u64::from(pixel[red]),
                    sums[1] + u64::from(pixel[green]),
                    sums[2] + u64::from(pixel[blue]),
                ];
            }
        }
        let count = (count * columns.len()) as u64;
        rgb.extend(sums.map(|sum| (sum / count) as u8));
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let sections = || json!({ "device": { "commands": 7 } }).as_object().cloned().unwrap();
        Facts { name: "vm7".to_owned(), started: Instant::now(), sections: Box::new(sections) }
    }

    fn ask(method: &str, path: &str, query: &str, body: &str) -> Action {
        let request =
            Request { method: method.into(), path: path.into(), query: query.into(), body: body.as_bytes().to_vec() };
        route(&request, &mut facts())
    }

    fn status(action: Action) -> u16 {
        match action {
            Action::Reply(response) => response.status,
            Action::Ask(question, _) => panic!("asked {question:?}"),
        }
    }

    #[test]
    fn stats_are_told_without_asking_the_device() {
        let Action::Reply(response) = ask("GET", "/v1/stats", "", "") else { panic!("asked") };
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            (&value["version"], &value["name"], &value["device"]["commands"]),
            (&json!(1), &json!("vm7"), &json!(7))
        );
    }

    #[test]
    fn each_question_reaches_the_device_with_its_numbers() {
        assert_eq!(ask("GET", "/v1/heads", "", ""), Action::Ask(Question::Heads, 0));
        let picture = |head, widest| Action::Ask(Question::Screenshot { head }, widest);
        assert_eq!(ask("GET", "/v1/screenshot", "", ""), picture(0, u32::MAX));
        assert_eq!(ask("GET", "/v1/screenshot", "head=2&width=480", ""), picture(2, 480));
        let body = r#"{"head":1,"width":1024,"height":768}"#;
        let resize = Question::Resize { head: 1, width: 1024, height: 768 };
        assert_eq!(ask("POST", "/v1/resize", "", body), Action::Ask(resize, 0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_here() {
        for (method, path, query, body, expected) in [
            ("GET", "/", "", "", 404),
            ("POST", "/v1/stats", "", "", 405),
            ("GET", "/v1/resize", "", "", 405),
            ("GET", "/v1/screenshot", "head=x", "", 400),
            ("GET", "/v1/screenshot", "width=0", "", 400),
            ("POST", "/v1/resize", "", "", 400),
            ("POST", "/v1/resize", "", r#"{"width":1,"height":0}"#, 400),
            ("POST", "/v1/resize", "", r#"{"width":16385,"height":1}"#, 400),
            ("POST", "/v1/resize", "", r#"{"width":1,"height":1,"depth":1}"#, 400),
        ] {
            assert_eq!(status(ask(method, path, query, body)), expected, "{method} {path}?{query} {body}");
        }
    }

    #[test]
    fn a_picture_of_any_format_becomes_a_png_of_the_same_colours() {
        for (format, pixels) in [
            (Format::B8G8R8X8, [3, 2, 1, 9, 252, 251, 250, 9]),
            (Format::A8R8G8B8, [9, 1, 2, 3, 9, 250, 251, 252]),
            (Format::R8G8B8A8, [1, 2, 3, 9, 250, 251, 252, 9]),
        ] {
            let response = reply(Answer::Picture(Capture { format, width: 1, height: 2, pixels: pixels.to_vec() }), 9);
            let mut reader = png::Decoder::new(std::io::Cursor::new(&response.body)).read_info().unwrap();
            assert_eq!(reader.info().size(), (1, 2));
            let mut colours = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut colours).unwrap();
            assert_eq!(colours, [1, 2, 3, 250, 251, 252], "{format:?}");
        }
    }

    #[test]
    fn a_picture_is_shrunk_to_the_mean_of_its_pixels_in_proportion_and_never_grows() {
        let grey = |of: &[u8]| of.iter().flat_map(|shade| [*shade, *shade, *shade, 0]).collect::<Vec<u8>>();
        let shrunk = |width, height, shades: &[u8], widest| {
            let picture = Capture { format: Format::B8G8R8X8, width, height, pixels: grey(shades) };
            let response = reply(Answer::Picture(picture), widest);
            let mut reader = png::Decoder::new(std::io::Cursor::new(&response.body)).read_info().unwrap();
            let size = reader.info().size();
            let mut colours = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut colours).unwrap();
            (size, colours.chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>())
        };
        let four = [0, 10, 100, 110, 20, 30, 120, 130];
        assert_eq!(shrunk(4, 2, &four, 2), ((2, 1), vec![15, 115]));
        assert_eq!(shrunk(4, 2, &four, 3), ((3, 1), vec![10, 20, 115]));
        assert_eq!(shrunk(4, 2, &four, 4), ((4, 2), four.to_vec()));
        assert_eq!(shrunk(4, 2, &four, 5), ((4, 2), four.to_vec()));
        assert_eq!(shrunk(8, 1, &four, 1), ((1, 1), vec![65]));
        assert_eq!(shrunk(1, 3, &[1, 2, 3], 1), ((1, 3), vec![1, 2, 3]));
    }
}
