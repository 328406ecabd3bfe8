//! `conveyor-raft watch`.

use std::io::{self, Write};

use conveyor_raft::client::{WatchFailure, WatchNews};
use conveyor_raft::node::{WatchFrom, WatchOptions};
use conveyor_raft::proto::{WatchCause, WatchedEntry, WatchedValue};
use serde_json::{Value, json};

use crate::cli::WatchArgs;
use crate::client::{Client, failure};
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(args: WatchArgs) -> Result<(), Failure> {
    let client = Client::new(args.client)?;
    let mut watcher = client.cluster.watch(WatchOptions {
        prefixes: args.prefixes,
        from: args.from.map_or(WatchFrom::State, WatchFrom::After),
        renewals: args.renewals,
    });
    let show = match client.json {
        true => print_json,
        false => print,
    };
    loop {
        let news = tokio::select! {
            news = watcher.next() => news.map_err(over)?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let up_to_date = match &news {
            WatchNews::State { complete, .. } => *complete,
            WatchNews::Progress { .. } => true,
            WatchNews::Changes(_) | WatchNews::Reset { .. } => false,
        };
        let mut out = io::stdout().lock();
        // Nobody listening any more, as behind `head`, is no failure.
        let listening = show(&news, &mut out)? && out.flush().is_ok();
        if !listening || (args.once && up_to_date) {
            return Ok(());
        }
    }
}

fn over(failed: WatchFailure) -> Failure {
    match failed {
        WatchFailure::Compacted { .. } => Failure::new(format!(
            "{failed}: watch without --from to begin with the state"
        )),
        WatchFailure::Refused(error) => failure(error),
    }
}

fn word(cause: WatchCause) -> &'static str {
    match cause {
        WatchCause::Command | WatchCause::Unspecified => "command",
        WatchCause::Cascade => "cascade",
        WatchCause::Expired => "expired",
        WatchCause::Renewal => "renewal",
    }
}

/// The record itself: its kind is in the key.
fn record(value: &WatchedValue) -> Result<Value, Failure> {
    let kinds = serde_json::to_value(&value.value)?;
    Ok(match kinds {
        Value::Object(kinds) => kinds.into_iter().next().map_or(Value::Null, |(_, it)| it),
        other => other,
    })
}

/// One object for each record and each change. False once nobody listens.
fn print_json(news: &WatchNews, out: &mut impl Write) -> Result<bool, Failure> {
    let mut say = |value: Value| -> Result<bool, Failure> {
        Ok(writeln!(out, "{}", output::json(&value)?).is_ok())
    };
    match news {
        WatchNews::State {
            index,
            records,
            complete,
            ..
        } => {
            for each in records {
                let value = each.value.as_ref().map(record).transpose()?;
                let line =
                    json!({"index": index, "event": "state", "key": each.key, "value": value});
                if !say(line)? {
                    return Ok(false);
                }
            }
            match complete {
                true => say(json!({"index": index, "event": "progress"})),
                false => Ok(true),
            }
        }
        WatchNews::Changes(entry) => {
            for line in json_lines(entry)? {
                if !say(line)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        WatchNews::Progress { index } => say(json!({"index": index, "event": "progress"})),
        WatchNews::Reset { index } => say(json!({"index": index, "event": "reset"})),
    }
}

fn json_lines(entry: &WatchedEntry) -> Result<Vec<Value>, Failure> {
    let lines = entry.changes.iter().map(|change| {
        let event = change.value.as_ref().map_or("delete", |_| "put");
        Ok(json!({
            "index": entry.index,
            "time_ms": entry.time_ms,
            "event": event,
            "cause": word(change.cause()),
            "key": change.key,
            "value": change.value.as_ref().map(record).transpose()?,
        }))
    });
    lines.collect()
}

/// Columns: index, event, cause, key, record. Progress is for programs.
fn print(news: &WatchNews, out: &mut impl Write) -> Result<bool, Failure> {
    let mut say = |index: u64, event: &str, cause: &str, key: &str, record: String| {
        writeln!(out, "{index:>9} {event:<7} {cause:<8} {key} {record}").is_ok()
    };
    match news {
        WatchNews::State { index, records, .. } => {
            for each in records {
                let value = each.value.as_ref().map(record).transpose()?;
                if !say(*index, "state", "", &each.key, output::json(&value)?) {
                    return Ok(false);
                }
            }
        }
        WatchNews::Changes(entry) => {
            for change in &entry.changes {
                let value = change.value.as_ref().map(record).transpose()?;
                let (event, text) = match value {
                    Some(value) => ("put", output::json(&value)?),
                    None => ("delete", String::new()),
                };
                if !say(entry.index, event, word(change.cause()), &change.key, text) {
                    return Ok(false);
                }
            }
        }
        WatchNews::Progress { .. } => {}
        WatchNews::Reset { index } => {
            let why = "some changes are not shown; the state as it is follows";
            return Ok(say(*index, "reset", "", why, String::new()));
        }
    }
    Ok(true)
}
