//! `conveyor-raft certs`.

use conveyor_raft::quic::certs::{InitOptions, init};

use crate::cli::{CertsArgs, CertsCommand, CertsInitArgs};
use crate::failure::Failure;
use crate::output::say;

/// Every node can be reached from its own machine, whatever other names it has.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(crate) fn run(args: CertsArgs) -> Result<(), Failure> {
    match args.command {
        CertsCommand::Init(args) => make(args),
    }
}

fn make(args: CertsInitArgs) -> Result<(), Failure> {
    let mut hosts: Vec<String> = LOCAL.map(str::to_owned).into();
    hosts.extend(
        args.hosts
            .into_iter()
            .filter(|host| !LOCAL.contains(&host.as_str())),
    );
    let options = InitOptions {
        label: args.cluster,
        nodes: args.nodes,
        hosts,
    };
    let report = init(&args.dir, &options)?;
    if args.json {
        let files: Vec<_> = report
            .files
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let value = serde_json::json!({ "cluster_id": report.cluster.to_string(), "files": files });
        say!("{value}");
        return Ok(());
    }
    say!("cluster {} ({})", report.cluster, options.label);
    for file in &report.files {
        say!("  {}", file.display());
    }
    say!(
        "Copy node-N/, peer-ca.pem, peer-ca.crl, client-ca.pem and client-ca.crl to node N.\n\
         Keep peer-ca.key and client-ca.key off the nodes."
    );
    Ok(())
}
