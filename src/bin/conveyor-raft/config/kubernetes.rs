//! `[peers] from = "kubernetes"`: who this node is and who the others are, by what the template of a
//! stateful set tells its pods.
//!
//! Nothing is asked for over the network: the names follow from the variables, and are resolved at each
//! dial. Whatever the file, the environment or a flag sets stays as it is set.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Origins, set};

/// The word.
pub(crate) const KUBERNETES: &str = "kubernetes";
const VARIABLES: [&str; 5] = [
    "POD_NAME",
    "NAMESPACE",
    "CLUSTER_NAME",
    "REPLICAS",
    "HEADLESS_SERVICE",
];
/// More first members than anybody founds a cluster with.
const MOST: u64 = 99;
/// Where the manifests put things.
const PATHS: [(&str, &str, &str); 9] = [
    ("node", "data_dir", "/var/lib/conveyor-raft/data"),
    ("peers", "ca", "/run/certs/peer-ca.pem"),
    ("peers", "crl", "/run/certs/peer-ca.crl"),
    ("peers", "cert", "/run/certs/peer.pem"),
    ("peers", "key", "/run/certs/peer.key"),
    ("edge", "client_ca", "/run/certs/client-ca.pem"),
    ("edge", "crl", "/run/certs/client-ca.crl"),
    ("edge", "cert", "/run/certs/edge.pem"),
    ("edge", "key", "/run/certs/edge.key"),
];

/// The variables that this reads, of all.
pub(super) fn of_interest(name: &str) -> bool {
    VARIABLES.contains(&name)
}

/// Fills in what is not set. Does nothing unless `from` says so, or nothing at all is said of the node and
/// its peers and the variables are there.
///
/// # Errors
/// Names the variable that is missing or makes no sense, as a sentence.
pub(super) fn fill(
    table: &mut Table,
    origins: &mut Origins,
    env: &BTreeMap<String, String>,
) -> Result<(), String> {
    let unsaid = !table.contains_key("node") && !table.contains_key("peers");
    if unsaid && VARIABLES.iter().all(|name| env.contains_key(*name)) {
        put(
            table,
            origins,
            "peers",
            "from",
            KUBERNETES.into(),
            "POD_NAME and the others",
        )?;
    }
    match text(table, "peers", "from") {
        Some(word) if word == KUBERNETES => {}
        // What else it may be is for the settings to refuse.
        _ => return Ok(()),
    }
    let pod = Pod::of(env)?;
    let id = i64::try_from(pod.ordinal + 1).map_err(|error| error.to_string())?;
    put(table, origins, "node", "id", id.into(), "POD_NAME")?;
    let port = |table: &Table, section, default: &str| {
        let listen = text(table, section, "listen").unwrap_or_default();
        let port = listen.rsplit_once(':').map(|(_, port)| port.to_owned());
        port.unwrap_or_else(|| default.to_owned())
    };
    let (peers, clients) = (port(table, "peers", "50052"), port(table, "edge", "50051"));
    let own = pod.name_of(pod.ordinal);
    let named = "POD_NAME, HEADLESS_SERVICE, NAMESPACE";
    let at = |port: &str| Value::from(format!("{own}:{port}"));
    put(table, origins, "peers", "advertise", at(&peers), named)?;
    put(table, origins, "edge", "advertise", at(&clients), named)?;
    members(table, origins, &pod, &peers)?;
    for (section, key, path) in PATHS {
        put(
            table,
            origins,
            section,
            key,
            path.into(),
            "from = \"kubernetes\"",
        )?;
    }
    Ok(())
}

/// Who founds the cluster, and whether this node comes later.
fn members(table: &mut Table, origins: &mut Origins, pod: &Pod, port: &str) -> Result<(), String> {
    let single = table
        .get("peers")
        .and_then(|peers| peers.get("single"))
        .and_then(Value::as_bool)
        .unwrap_or_default();
    if pod.replicas == 1 && !single {
        return Err(
            "REPLICAS is 1: a cluster of one needs the explicit word, [peers] single = true"
                .to_owned(),
        );
    }
    if !single {
        let member = |ordinal: u64| {
            let mut entry = Table::new();
            let id = i64::try_from(ordinal + 1).unwrap_or_default();
            entry.insert("id".to_owned(), id.into());
            let address = format!("{}:{port}", pod.name_of(ordinal));
            entry.insert("addr".to_owned(), address.into());
            Value::Table(entry)
        };
        // Whoever leads must hear of a pod that comes later, and that may be one that came later itself.
        let all = pod.replicas.max(pod.ordinal.min(MOST));
        let others = Value::Array((0..all).map(member).collect());
        put(
            table,
            origins,
            "peers",
            "list",
            others,
            "CLUSTER_NAME, REPLICAS, HEADLESS_SERVICE, NAMESPACE",
        )?;
        if pod.ordinal >= pod.replicas {
            put(
                table,
                origins,
                "peers",
                "join",
                true.into(),
                "POD_NAME is beyond REPLICAS",
            )?;
        }
    }
    Ok(())
}

/// Sets what is not set.
fn put(
    table: &mut Table,
    origins: &mut Origins,
    section: &str,
    key: &str,
    value: Value,
    from: &str,
) -> Result<(), String> {
    let keys = table.get(section).and_then(Value::as_table);
    if keys.is_some_and(|keys| keys.contains_key(key)) {
        return Ok(());
    }
    set(table, section, key, value)?;
    origins.insert((section.to_owned(), key.to_owned()), from.to_owned());
    Ok(())
}

fn text(table: &Table, section: &str, key: &str) -> Option<String> {
    let value = table.get(section)?.get(key)?;
    value.as_str().map(str::to_owned)
}

struct Pod {
    ordinal: u64,
    replicas: u64,
    set: String,
    /// `HEADLESS_SERVICE.NAMESPACE.svc`.
    domain: String,
}

impl Pod {
    fn of(env: &BTreeMap<String, String>) -> Result<Self, String> {
        let given = |name: &str| match env.get(name).map(String::as_str) {
            None | Some("") => Err(format!(
                "[peers] from = \"kubernetes\" needs the variable {name}; set it in the pods' template"
            )),
            Some(value) => Ok(value.to_owned()),
        };
        let label = |name: &str| {
            let value = given(name)?;
            match is_label(&value) {
                true => Ok(value),
                false => Err(format!(
                    "{name} is {value:?}, and must be one label of a DNS name: up to 63 of a-z, 0-9 \
                     and '-', neither first nor last a '-'"
                )),
            }
        };
        let pod = given("POD_NAME")?;
        let (namespace, set) = (label("NAMESPACE")?, label("CLUSTER_NAME")?);
        let replicas = given("REPLICAS")?;
        let service = label("HEADLESS_SERVICE")?;
        let ordinal = pod
            .strip_prefix(&set)
            .and_then(|rest| rest.strip_prefix('-'));
        let ordinal = ordinal.and_then(plain_number).ok_or_else(|| {
            format!(
                "POD_NAME is {pod:?}, and must be CLUSTER_NAME-NUMBER, here {set}-0 or the like"
            )
        })?;
        let number = plain_number(&replicas).filter(|number| (1..=MOST).contains(number));
        let replicas = number.ok_or_else(|| {
            format!("REPLICAS is {replicas:?}, and must be how many found the cluster, 1 to {MOST}")
        })?;
        Ok(Self {
            ordinal,
            replicas,
            set,
            domain: format!("{service}.{namespace}.svc"),
        })
    }

    fn name_of(&self, ordinal: u64) -> String {
        format!("{}-{ordinal}.{}", self.set, self.domain)
    }
}

/// As Kubernetes writes them: no sign, no zero before the rest.
fn plain_number(text: &str) -> Option<u64> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(u64::from(number))
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let all = text.bytes().all(|byte| plain(byte) || byte == b'-');
    let ends = !text.starts_with('-') && !text.ends_with('-');
    all && ends && (1..=63).contains(&text.len())
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
