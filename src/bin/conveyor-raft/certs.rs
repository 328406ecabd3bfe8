//! `conveyor-raft certs`.

use conveyor_raft::quic::certs::{CertsReport, InitOptions, add_nodes, init};

use crate::cli::{CertsAddArgs, CertsArgs, CertsCommand, CertsInitArgs};
use crate::failure::Failure;
use crate::output::say;

/// Every node can be reached from its own machine, whatever other names it has.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(crate) fn run(args: CertsArgs) -> Result<(), Failure> {
    match args.command {
        CertsCommand::Init(args) => make(args),
        CertsCommand::Add(args) => add(args),
    }
}

fn hosts(named: Vec<String>) -> Vec<String> {
    let others = named
        .into_iter()
        .filter(|host| !LOCAL.contains(&host.as_str()));
    LOCAL.map(str::to_owned).into_iter().chain(others).collect()
}

fn make(args: CertsInitArgs) -> Result<(), Failure> {
    let options = InitOptions {
        label: args.cluster,
        nodes: args.nodes,
        hosts: hosts(args.hosts),
    };
    let report = init(&args.dir, &options)?;
    if print(&report, args.json) {
        say!("Keep peer-ca.key and client-ca.key off the nodes.");
    }
    Ok(())
}

fn add(args: CertsAddArgs) -> Result<(), Failure> {
    let report = add_nodes(&args.dir, &args.nodes, &hosts(args.hosts))?;
    print(&report, args.json);
    Ok(())
}

/// Whether it was printed for people.
fn print(report: &CertsReport, json: bool) -> bool {
    let files = report.files.iter().map(|path| path.display().to_string());
    let files: Vec<_> = files.collect();
    if json {
        let value = serde_json::json!({ "cluster_id": report.cluster.to_string(), "files": files });
        say!("{value}");
        return false;
    }
    say!("cluster {}", report.cluster);
    for file in &files {
        say!("  {file}");
    }
    say!("Copy node-N/, peer-ca.pem, peer-ca.crl, client-ca.pem and client-ca.crl to node N.");
    true
}
