//! `conveyor-raft config check`.

use conveyor_raft::Credentials;
use serde::Serialize;
use toml::{Table, Value};

use crate::cli::{ConfigArgs, ConfigCommand};
use crate::config::{self, Config};
use crate::edge;
use crate::failure::{Context, Failure};
use crate::output::{self, say};
use crate::serve;

#[derive(Serialize)]
struct Line<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a Value,
    from: &'a str,
}

pub(crate) async fn run(args: ConfigArgs) -> Result<(), Failure> {
    let ConfigCommand::Check(args) = args.command;
    let file = args.settings.config.clone();
    let flags = serve::flags(args.settings)?;
    let loaded = config::load_with_origins(file.as_deref(), std::env::vars_os(), flags)?;
    let (config, origins) = loaded;
    let all = Table::try_from(&config).context("the settings")?;
    for (section, keys) in &all {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let at = (section.clone(), key.clone());
            let from = origins.get(&at).map_or("default", String::as_str);
            let line = Line {
                section,
                key,
                value,
                from,
            };
            match args.json {
                true => say!("{}", output::json(&line)?),
                false => say!("[{section}] {key} = {value}    # {from}"),
            }
        }
    }
    would_start(&config).await
}

/// What `serve` does before it opens anything.
async fn would_start(config: &Config) -> Result<(), Failure> {
    let files = serve::files(config);
    let id = serve::node_id(config)?;
    let credentials = Credentials::load(&files.peers)?;
    if credentials.node() != id {
        return Err(Failure::new(format!(
            "[peers] cert is for node {}, not {id}: use that node's certificate",
            credentials.node()
        )));
    }
    serve::raft(config, id).validate()?;
    edge::options(config, &files)?;
    serve::cluster(config, id, credentials).await.map(drop)
}
