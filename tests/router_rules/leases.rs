//! Leases run on log time without the time in which nobody led.

use super::support::Router;
use conveyor_raft::state_machine::{Answer, Outcome, RouterCommand, StateMachine};

const SIDECAR: &str =
    r#"{"RegisterSidecar":{"sidecar_id":"s","endpoint":"e","services":["orders"]}}"#;
const BOUND: &str = r#"{"RegisterService":{"service_id":"bound","service_type":"source","endpoint":"e","sidecar_id":"s","lease_ms":1000}}"#;
const FREE: &str =
    r#"{"RegisterService":{"service_id":"free","service_type":"lookup","endpoint":"e"}}"#;
const EXPIRE: &str = r#"{"ExpireLeases":{"sidecars":["s","x"],"services":["free","bound","x"]}}"#;

fn start() -> Router {
    let mut router = Router::new();
    for line in [SIDECAR, BOUND, FREE] {
        router.applied(line);
    }
    router.applied(r#"{"JoinGroup":{"service_id":"bound","group_id":"g","stage_id":"x"}}"#);
    router
}

fn due(router: &Router) -> Option<RouterCommand> {
    router.machine.due(router.context.time_us)
}

#[test]
fn a_silent_sidecar_goes_with_all_that_is_bound_to_it() {
    let mut router = start();
    router.seconds_pass(30);
    assert_eq!(due(&router), None, "after exactly its lease it lives");
    router.unchanged(EXPIRE);
    router.context.time_us += 1;
    let command = due(&router).expect("due");
    let expected = RouterCommand::ExpireLeases {
        sidecars: vec!["s".into()],
        services: vec!["free".into()],
    };
    assert_eq!(command, expected);
    let answer = router.applied(EXPIRE);
    let Answer::Expired { sidecars, services } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(sidecars, ["s"]);
    assert_eq!(services, ["bound", "free"]);
    let state = router.state();
    assert!(state.sidecars.is_empty() && state.services.is_empty());
    assert!(state.service_locations.is_empty());
    assert_eq!(state.groups["g"].generation, 2);
    assert_eq!(due(&router), None);
}

#[test]
fn a_renewal_that_came_first_wins() {
    let mut router = start();
    router.seconds_pass(31);
    let command = due(&router).expect("due");
    router.applied(r#"{"UpdateSidecarHeartbeat":{"sidecar_id":"s"}}"#);
    router.applied(r#"{"RenewLease":{"service_id":"free"}}"#);
    assert!(matches!(router.apply(command), Outcome::Unchanged(_)));
    assert_eq!(router.state().services.len(), 2);
}

#[test]
fn time_without_a_leader_expires_nobody() {
    let mut router = start();
    router.seconds_pass(20);
    router.applied(r#"{"Noop":{}}"#);
    router.new_leader(86_400);
    assert_eq!(due(&router), None);
    router.seconds_pass(10);
    router.unchanged(EXPIRE);
    router.context.time_us += 1;
    assert!(due(&router).is_some());
    router.applied(EXPIRE);
}

#[test]
fn a_clock_that_goes_back_is_not_followed() {
    let mut router = start();
    let time = router.state().time_ms();
    router.context.time_us -= 5_000_000;
    router.applied(r#"{"Noop":{}}"#);
    assert_eq!(router.state().time_ms(), time);
}

#[test]
fn no_lease_never_ends_and_a_new_one_counts_from_its_registration() {
    let mut router = Router::new();
    router.applied(&FREE.replace("\"endpoint\"", "\"lease_ms\":0,\"endpoint\""));
    router.seconds_pass(1_000_000);
    assert_eq!(due(&router), None);
    router.applied(FREE);
    router.seconds_pass(31);
    assert!(due(&router).is_some());
    router.applied(&FREE.replace("\"endpoint\"", "\"lease_ms\":0,\"endpoint\""));
    assert_eq!(due(&router), None);
}

#[test]
fn one_command_expires_a_thousand_at_most() {
    let mut router = Router::new();
    for number in 0..1500 {
        router.machine.apply(
            &router.context,
            RouterCommand::register_service(format!("s-{number}"), "source", "e"),
        );
    }
    router.seconds_pass(31);
    let command = due(&router).expect("due");
    router.apply(command);
    assert_eq!(router.state().services.len(), 500);
    let command = due(&router).expect("due");
    router.apply(command);
    assert_eq!(due(&router), None);
}
