//! `conveyor-raft certs`.

mod life;
mod show;

use conveyor_raft::quic::certs::{CertsReport, InitOptions, add_client, add_nodes, init, renew};

use crate::cli::{
    CertsAddArgs, CertsArgs, CertsClientArgs, CertsCommand, CertsInitArgs, CertsRenewArgs,
};
use crate::failure::Failure;
use crate::output::say;

/// Every node can be reached from its own machine, whatever other names it has.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(crate) fn run(args: CertsArgs) -> Result<(), Failure> {
    match args.command {
        CertsCommand::Init(args) => make(args),
        CertsCommand::Add(args) => add(args),
        CertsCommand::Client(args) => client(args),
        CertsCommand::Renew(args) => anew(args),
        CertsCommand::Show(args) => show::run(args),
        CertsCommand::Revoke(args) => life::revoke(args),
        CertsCommand::Rotate(args) => life::rotate(args),
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
        days: args.validity.days,
    };
    let report = init(&args.dir, &options)?;
    if print(&report, args.json) {
        say!("Keep peer-ca.key and client-ca.key off the nodes.");
    }
    Ok(())
}

fn add(args: CertsAddArgs) -> Result<(), Failure> {
    let (hosts, days) = (hosts(args.hosts), args.validity.days);
    let report = add_nodes(&args.dir, &args.nodes, &hosts, days)?;
    print(&report, args.json);
    Ok(())
}

fn client(args: CertsClientArgs) -> Result<(), Failure> {
    let role = args.role.parse().map_err(|_| {
        let given = &args.role;
        Failure::new(format!(
            "{given:?} is no role; use reader, writer or operator"
        ))
    })?;
    let report = add_client(&args.dir, role, &args.name, args.validity.days)?;
    if print_files(&report, args.json) {
        say!("Give the client both, and client-ca.pem and client-ca.crl.");
    }
    Ok(())
}

fn anew(args: CertsRenewArgs) -> Result<(), Failure> {
    let days = args.validity.days;
    let report = renew(&args.dir, &args.nodes, &args.clients, days)?;
    if print_files(&report, args.json) {
        say!("Copy them to their places: a running node takes them up by itself.");
    }
    Ok(())
}

/// Whether it was printed for people.
fn print(report: &CertsReport, json: bool) -> bool {
    let for_people = print_files(report, json);
    if for_people {
        say!("Copy node-N/, peer-ca.pem, peer-ca.crl, client-ca.pem and client-ca.crl to node N.");
    }
    for_people
}

fn print_files(report: &CertsReport, json: bool) -> bool {
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
    true
}
