//! `conveyor-raft certs revoke` and `rotate`.

use std::path::PathBuf;

use conveyor_raft::quic::certs::{self, Revoke, Rotation, RotationStep};

use crate::cli::{CertsRevokeArgs, CertsRotateArgs, RotateStep};
use crate::failure::Failure;
use crate::output::say;

pub(super) fn revoke(args: CertsRevokeArgs) -> Result<(), Failure> {
    let whom = match (args.node, args.client, args.serial) {
        (Some(node), ..) => Revoke::Node(node),
        (_, Some(client), _) => Revoke::Client(client),
        (_, _, serial) => Revoke::Serial(serial.unwrap_or_default()),
    };
    let report = certs::revoke(&args.dir, &whom)?;
    let files = names(&report.files);
    if args.json {
        let serials = report.serials.iter().map(|(serial, _)| serial);
        let serials: Vec<_> = serials.collect();
        say!(
            "{}",
            serde_json::json!({ "serials": serials, "files": files })
        );
        return Ok(());
    }
    for (serial, who) in &report.serials {
        let who = who.as_deref().unwrap_or("nobody that the directory knows");
        say!("revoked: {serial}, {who}");
    }
    match files.is_empty() {
        true => say!("They were on the lists already; nothing was written."),
        false => say!(
            "Copy {} to every node: it is taken up there.",
            files.join(", ")
        ),
    }
    Ok(())
}

pub(super) fn rotate(args: CertsRotateArgs) -> Result<(), Failure> {
    let step = args.step.map(|step| match step {
        RotateStep::Trust => RotationStep::Trust,
        RotateStep::Issue => RotationStep::Issue,
        RotateStep::Retire => RotationStep::Retire,
    });
    let files = match step {
        Some(step) => certs::rotate(&args.dir, step, args.validity.days)?,
        None => Vec::new(),
    };
    let files = names(&files);
    let rotation = certs::rotation(&args.dir)?;
    let (state, next) = told(&rotation, step);
    if args.json {
        let value = serde_json::json!({ "state": state, "files": files, "next": next });
        say!("{value}");
        return Ok(());
    }
    for file in &files {
        say!("  {file}");
    }
    say!("state: {state}");
    say!("next: {next}");
    Ok(())
}

fn names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .map(|file| file.display().to_string())
        .collect()
}

/// The state's name, and what to do next.
fn told(rotation: &Rotation, step: Option<RotationStep>) -> (&'static str, String) {
    let (state, next) = match rotation {
        Rotation::Rest if step == Some(RotationStep::Retire) => (
            "rest",
            "copy peer-ca.pem, peer-ca.crl, client-ca.pem and client-ca.crl to every node and \
             client; then all is done",
        ),
        Rotation::Rest => (
            "rest",
            "nothing; `certs rotate trust` begins to move to new CAs",
        ),
        Rotation::Trusting => ("trusting", "`certs rotate trust` again: it was cut off"),
        Rotation::Trusted => (
            "trusted",
            "copy peer-ca.pem, peer-ca.crl, client-ca.pem and client-ca.crl to every node and \
             client, see that each node logs that it took them up, then `certs rotate issue`",
        ),
        Rotation::Issuing(lagging) => {
            let left = names(lagging).join(", ");
            let next = format!("`certs rotate issue` again; still of the old CA: {left}");
            return ("issuing", next);
        }
        Rotation::Issued => (
            "issued",
            "copy node-N/ to node N and clients/ to the clients, see that each node logs that it took them up \
             and have clients connect anew, then `certs rotate retire`",
        ),
        Rotation::Retiring => ("retiring", "`certs rotate retire` again: it was cut off"),
    };
    (state, next.to_owned())
}
