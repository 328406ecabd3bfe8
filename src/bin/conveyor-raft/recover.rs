//! `conveyor-raft recover`.

use std::io::IsTerminal;
use std::path::PathBuf;

use conveyor_raft::node::recover::{NewCluster, RecoveryPlan, Survivor};
use conveyor_raft::quic::CredentialFiles;
use conveyor_raft::{Credentials, LogId, RouterStateMachine};
use serde_json::{Value, json};

use crate::cli::RecoverArgs;
use crate::failure::Failure;
use crate::output::{count, say};

pub(crate) fn run(args: RecoverArgs) -> Result<(), Failure> {
    let survivor = Survivor::read(&args.dir, RouterStateMachine::new())?;
    let target = target(&args, survivor.plan())?;
    if let Some((into, new)) = &target {
        survivor.check(into, new)?;
    }
    if args.json {
        return run_for_programs(&args, survivor, target);
    }
    print_plan(survivor.plan());
    if let Some((into, new)) = &target {
        say!("");
        say!(
            "made   {}, node {} of the new cluster {}",
            into.display(),
            new.node,
            new.cluster
        );
    }
    let Some((into, new)) = target.filter(|_| !args.dry_run) else {
        say!("Nothing was changed.");
        return Ok(());
    };
    if !args.yes && !agreed()? {
        return Err(Failure::new("not recovered; nothing was changed"));
    }
    let me = survivor.found(&into, &new)?;
    say!(
        "Recovered. The first member of cluster {} is {me}.",
        new.cluster
    );
    say!(
        "Start it with the new certificates, data_dir = {:?}, no list and join = true under [peers]; \
         then other nodes with new certificates and empty directories, and add them (`members add`). \
         Never start the old directory again beside it for the same clients.",
        into.display().to_string()
    );
    Ok(())
}

/// Asks nothing; everything is one object of JSON on standard output.
fn run_for_programs(
    args: &RecoverArgs,
    survivor: Survivor<RouterStateMachine>,
    target: Option<(PathBuf, NewCluster)>,
) -> Result<(), Failure> {
    let target = target.filter(|_| !args.dry_run);
    let plan = plan(survivor.plan());
    let made = match target {
        Some((into, new)) => {
            let first = survivor.found(&into, &new)?;
            Some(json!({
                "data_dir": into,
                "cluster_id": new.cluster.to_string(),
                "first_member": first.to_string(),
            }))
        }
        None => None,
    };
    say!("{:#}", json!({ "plan": plan, "made": made }));
    Ok(())
}

/// The plan as JSON; entries as index and term, ranges as their first and last index.
fn plan(plan: &RecoveryPlan) -> Value {
    let entry = |id: LogId| json!({ "index": id.index, "term": id.term });
    let (index, members) = &plan.members;
    let members = members.iter().map(|info| {
        json!({
            "node_id": info.replica.node,
            "incarnation": info.replica.incarnation.to_string(),
            "address": info.peer_address,
            "client_endpoint": info.client_endpoint,
        })
    });
    json!({
        "directory": plan.directory,
        "node_id": plan.replica.node,
        "incarnation": plan.replica.incarnation.to_string(),
        "cluster_id": plan.cluster.to_string(),
        "term": plan.term,
        "log_start": entry(plan.log_start),
        "log_last": entry(plan.log_last),
        "snapshot": plan.snapshot.map(entry),
        "committed_at_least": plan.committed,
        "members_index": index,
        "members": members.collect::<Vec<_>>(),
        "kept": entry(plan.last),
        "digest": format!("{:032x}", plan.digest),
        "not_known_to_be_committed": plan.uncertain(),
        "superseded": plan.superseded(),
        "skipped": plan.skipped,
        "repaired": plan.repaired,
    })
}

/// Where to, if it is said.
fn target(
    args: &RecoverArgs,
    plan: &RecoveryPlan,
) -> Result<Option<(PathBuf, NewCluster)>, Failure> {
    let (Some(into), Some(certs)) = (&args.into, &args.certs) else {
        return Ok(None);
    };
    let node = args.node.unwrap_or(plan.replica.node);
    let credentials = Credentials::load(&CredentialFiles::in_dir(certs, node))?;
    let new = NewCluster {
        peer_address: args.address.clone(),
        client_endpoint: args.client_endpoint.clone(),
        ..NewCluster::new(credentials.cluster(), credentials.node())
    };
    Ok(Some((into.clone(), new)))
}

fn print_plan(plan: &RecoveryPlan) {
    let (index, members) = &plan.members;
    say!("{}", plan.directory.display());
    say!(
        "  node        {}, cluster {}",
        plan.replica.node,
        plan.cluster
    );
    say!("  incarnation {}", plan.replica.incarnation);
    say!("  term        {}", plan.term);
    say!("  log start   {}", plan.log_start);
    say!("  last entry  {}", plan.log_last);
    say!("  committed   {} at least", plan.committed);
    if let Some(snapshot) = plan.snapshot {
        say!("  snapshot    {snapshot}");
    }
    say!("  members     by entry {index}");
    for member in members {
        let address = &member.peer_address;
        say!("              node {}  {address}", member.replica.node);
    }
    say!("");
    say!(
        "kept   the state at entry {}, digest {:032x}",
        plan.last,
        plan.digest
    );
    print_doubts(plan);
}

/// What nobody can know.
fn print_doubts(plan: &RecoveryPlan) {
    say!(
        "lost   EVERY COMMAND BEHIND ENTRY {} THAT OTHERS ACKNOWLEDGED; nothing here says how many",
        plan.last.index
    );
    if plan.repaired {
        say!(
            "       and, since this log was damaged and repaired, commands that it had acknowledged \
             itself"
        );
    }
    if let Some((first, last)) = plan.superseded() {
        say!("       entries {first}..={last} of the log: a newer snapshot stands against them");
    }
    match plan.uncertain() {
        Some((first, last)) => say!(
            "risen  entries {first}..={last}, {} of them: not known to be committed, and applied \
             all the same. Who proposed them may have been told that they failed or are unknown",
            count(last - first + 1)
        ),
        None => say!("risen  none: all of it is known to be committed"),
    }
    if !plan.skipped.is_empty() {
        say!(
            "not    applied, as in the old cluster: entries {:?}",
            plan.skipped
        );
    }
}

fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "standard input is no terminal to ask on: give --yes to recover; nothing was changed",
        ));
    }
    eprint!("Is a majority of the old cluster lost for good? Type yes to recover: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
