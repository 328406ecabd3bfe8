use super::super::super::file::{Config, NodeId};
use super::super::{Origins, load_with_origins};

type Variables = Vec<(&'static str, &'static str)>;

fn pod(name: &'static str) -> Variables {
    vec![
        ("POD_NAME", name),
        ("NAMESPACE", "shop"),
        ("CLUSTER_NAME", "conveyor-raft"),
        ("REPLICAS", "3"),
        ("HEADLESS_SERVICE", "peers"),
    ]
}

/// What these variables make, and nothing else: no file, no flag.
fn from(variables: &Variables) -> Result<(Config, Origins), String> {
    let env = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    load_with_origins(None, env, vec![]).map_err(|failure| failure.to_string())
}

fn origin<'a>(origins: &'a Origins, section: &str, key: &str) -> &'a str {
    origins
        .get(&(section.to_owned(), key.to_owned()))
        .map_or("default", String::as_str)
}

#[test]
fn five_variables_are_all_that_a_pod_needs() {
    let (config, origins) = from(&pod("conveyor-raft-1")).expect("settings");
    assert_eq!(config.node.id, NodeId::Number(2));
    let listed = config.peers.list.iter();
    let listed: Vec<_> = listed.map(|peer| (peer.id, peer.addr.as_str())).collect();
    assert_eq!(
        listed,
        [
            (1, "conveyor-raft-0.peers.shop.svc:50052"),
            (2, "conveyor-raft-1.peers.shop.svc:50052"),
            (3, "conveyor-raft-2.peers.shop.svc:50052"),
        ]
    );
    let own = "conveyor-raft-1.peers.shop.svc";
    assert_eq!(config.peers.advertise, Some(format!("{own}:50052")));
    assert_eq!(config.edge.advertise, Some(format!("{own}:50051")));
    assert!(!config.peers.join && !config.peers.single);
    assert_eq!(
        config.node.data_dir.to_str(),
        Some("/var/lib/conveyor-raft/data")
    );
    assert_eq!(config.peers.key.to_str(), Some("/run/certs/peer.key"));
    assert_eq!(origin(&origins, "node", "id"), "POD_NAME");
    assert!(origin(&origins, "peers", "list").contains("REPLICAS"));
    assert!(origin(&origins, "edge", "advertise").contains("HEADLESS_SERVICE"));
    assert_eq!(origin(&origins, "peers", "listen"), "default");
}

#[test]
fn a_pod_beyond_the_founders_waits_to_be_added() {
    let (config, origins) = from(&pod("conveyor-raft-3")).expect("settings");
    assert_eq!(config.node.id, NodeId::Number(4));
    assert!(config.peers.join);
    assert_eq!(
        config.peers.list.len(),
        3,
        "it tells the founders of itself"
    );
    assert!(origin(&origins, "peers", "join").contains("beyond REPLICAS"));
    let (later, _) = from(&pod("conveyor-raft-5")).expect("settings");
    let listed: Vec<_> = later.peers.list.iter().map(|peer| peer.id).collect();
    assert_eq!(listed, [1, 2, 3, 4, 5], "and those who came before it");
    let (far, _) = from(&pod("conveyor-raft-1000000")).expect("settings");
    assert_eq!(far.peers.list.len(), 99);
    let (last, _) = from(&pod("conveyor-raft-2")).expect("settings");
    assert!(!last.peers.join);
}

#[test]
fn what_is_set_otherwise_stays() {
    let mut variables = pod("conveyor-raft-0");
    variables.extend([
        ("CONVEYOR_RAFT__PEERS__FROM", "kubernetes"),
        ("CONVEYOR_RAFT__PEERS__LISTEN", "0.0.0.0:7000"),
        ("CONVEYOR_RAFT__EDGE__LISTEN", "0.0.0.0:7001"),
        ("CONVEYOR_RAFT__EDGE__ADVERTISE", "https://outside:443"),
        ("CONVEYOR_RAFT__PEERS__KEY", "/elsewhere/key"),
        ("CONVEYOR_RAFT__NODE__DATA_DIR", "/data"),
    ]);
    let (config, origins) = from(&variables).expect("settings");
    let own = "conveyor-raft-0.peers.shop.svc:7000".to_owned();
    assert_eq!(config.peers.list[0].addr, own, "all listen at one port");
    assert_eq!(config.peers.advertise, Some(own));
    assert_eq!(
        config.edge.advertise.as_deref(),
        Some("https://outside:443")
    );
    assert_eq!(config.peers.key.to_str(), Some("/elsewhere/key"));
    assert_eq!(config.node.data_dir.to_str(), Some("/data"));
    assert_eq!(
        origin(&origins, "node", "data_dir"),
        "CONVEYOR_RAFT__NODE__DATA_DIR"
    );
    // Who names a node and its peers, and not where from, is not led by a pod's variables.
    let mut named = pod("conveyor-raft-0");
    named.push(("CONVEYOR_RAFT__NODE__ID", "7"));
    let refused = from(&named).expect_err("no peers");
    assert!(refused.contains("data_dir"), "{refused}");
    let mut other = pod("conveyor-raft-0");
    other.push(("CONVEYOR_RAFT__PEERS__FROM", "consul"));
    let refused = from(&other).expect_err("no such word");
    assert!(refused.contains("kubernetes"), "{refused}");
}

#[test]
fn each_variable_that_is_missing_or_makes_no_sense_is_named() {
    let changed = |name: &str, value: Option<&'static str>| {
        let mut variables = pod("conveyor-raft-0");
        variables.retain(|(other, _)| *other != name);
        let known = pod("").into_iter().find(|(other, _)| *other == name);
        variables.extend(value.zip(known).map(|(value, (name, _))| (name, value)));
        variables.push(("CONVEYOR_RAFT__PEERS__FROM", "kubernetes"));
        from(&variables).map(drop).expect_err("refused")
    };
    for (name, _) in pod("") {
        for value in [None, Some("")] {
            let why = changed(name, value);
            assert!(
                why.contains(&format!("needs the variable {name};")),
                "{why}"
            );
        }
    }
    for (name, wrong) in [
        ("POD_NAME", "conveyor-raft"),
        ("POD_NAME", "conveyor-raft-"),
        ("POD_NAME", "conveyor-raft-x"),
        ("POD_NAME", "conveyor-raft-01"),
        ("POD_NAME", "conveyor-raft-+1"),
        ("POD_NAME", "conveyor-raft-99999999999"),
        ("POD_NAME", "other-0"),
        ("NAMESPACE", "a.b"),
        ("NAMESPACE", "-a"),
        ("CLUSTER_NAME", "Conveyor"),
        ("HEADLESS_SERVICE", "peers:1"),
        ("HEADLESS_SERVICE", "a/b"),
        ("REPLICAS", "0"),
        ("REPLICAS", "three"),
        ("REPLICAS", "-3"),
        ("REPLICAS", "03"),
        ("REPLICAS", "100"),
    ] {
        let why = changed(name, Some(wrong));
        assert!(why.contains(&format!("{name} is {wrong:?}")), "{why}");
    }
    let alone = changed("REPLICAS", Some("1"));
    assert!(alone.contains("single = true"), "{alone}");
    let mut single = pod("conveyor-raft-0");
    single.retain(|(name, _)| *name != "REPLICAS");
    single.extend([
        ("REPLICAS", "1"),
        ("CONVEYOR_RAFT__PEERS__FROM", "kubernetes"),
        ("CONVEYOR_RAFT__PEERS__SINGLE", "true"),
    ]);
    let (config, _) = from(&single).expect("the word was said");
    assert!(config.peers.single && config.peers.list.is_empty());
}
