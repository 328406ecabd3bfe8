//! Events to standard error. The library only emits them; the program decides what is shown.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::failure::{Context, Failure};

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Shows events that pass `filter`, such as `info` or `conveyor_raft=debug`.
pub(crate) fn init(filter: &str, format: Format) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .context(format!("{filter:?} is no filter of events"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // The library's spans are the stages of a command: what is of use is how long each took.
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let result = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    result.map_err(|error| Failure::new(error.to_string()))
}
