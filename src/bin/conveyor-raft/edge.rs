//! The client edge of a node, from its settings.

use std::collections::BTreeMap;

use conveyor_raft::grpc::{
    EdgeAddress, EdgeIdentity, EdgeLimits, EdgeListener, EdgeOptions, EdgeSecurity, Role,
    UnixSocket,
};
use tokio::net::TcpListener;

use crate::config::{Config, Plaintext, UNIX};
use crate::failure::{Context, Failure};
use crate::reload::Files;
use crate::serve::resolve;

/// Listens at `HOST:PORT` or `unix:PATH`.
pub(crate) async fn listen(at: &str) -> Result<EdgeListener, Failure> {
    let refused = format!("[edge] listen: cannot listen on {at}");
    if let Some(path) = at.strip_prefix(UNIX) {
        return Ok(UnixSocket::bind(path).context(refused)?.into());
    }
    let address = resolve("[edge] listen", at).await?;
    Ok(TcpListener::bind(address).await.context(refused)?.into())
}

/// What followers tell clients about this node; empty if nobody knows.
pub(crate) fn endpoint(config: &Config, listening: &EdgeAddress) -> String {
    let scheme = match config.edge.plaintext {
        Plaintext::Loopback => "http",
        Plaintext::Off | Plaintext::Unix => "https",
    };
    let address = match (&config.edge.advertise, listening) {
        (Some(url), _) if url.contains("://") || url.starts_with(UNIX) => return url.clone(),
        (Some(address), _) => address.clone(),
        (None, EdgeAddress::Unix(path)) => {
            let absolute = std::path::absolute(path);
            let path = absolute.as_deref().unwrap_or(path);
            return format!("{UNIX}{}", path.display());
        }
        (None, EdgeAddress::Tcp(to)) if !to.ip().is_unspecified() => to.to_string(),
        // Peers and clients mostly reach a machine by one name.
        (None, EdgeAddress::Tcp(to)) => {
            let advertised = config.peers.advertise.as_deref();
            match advertised.and_then(|peer| peer.rsplit_once(':')) {
                Some((host, _)) => format!("{host}:{}", to.port()),
                None => return String::new(),
            }
        }
    };
    format!("{scheme}://{address}")
}

/// How it is secured, and its bounds.
pub(crate) fn options(config: &Config, files: &Files) -> Result<EdgeOptions, Failure> {
    let edge = &config.edge;
    let roles = edge
        .roles
        .iter()
        .map(|(name, text)| Ok((name.clone(), role(text)?)));
    let roles = roles.collect::<Result<BTreeMap<_, _>, Failure>>()?;
    Ok(EdgeOptions {
        limits: EdgeLimits {
            max_message_bytes: edge.max_message_bytes,
            max_connections: edge.max_connections,
            ..EdgeLimits::default()
        },
        roles,
        backup: config.backup.options().map_err(Failure::new)?,
        ..EdgeOptions::new(security(config, files)?)
    })
}

fn role(text: &str) -> Result<Role, Failure> {
    text.parse().context("[edge]")
}

fn security(config: &Config, files: &Files) -> Result<EdgeSecurity, Failure> {
    let edge = &config.edge;
    if edge.listen.starts_with(UNIX) != (edge.plaintext == Plaintext::Unix) {
        return Err(Failure::new(
            "[edge] listen = \"unix:PATH\" and plaintext = \"unix\" go together: a unix socket is \
             served without TLS, for programs of this user only",
        ));
    }
    if edge.allow_plaintext_anywhere && edge.plaintext != Plaintext::Loopback {
        return Err(Failure::new(
            "[edge] allow_plaintext_anywhere lifts the bound of plaintext = \"loopback\", which is \
             not set: drop it",
        ));
    }
    match (edge.plaintext, &files.edge) {
        (Plaintext::Loopback, _) if edge.allow_plaintext_anywhere => {
            anywhere(role(&edge.plaintext_role)?)
        }
        (Plaintext::Loopback, _) => Ok(EdgeSecurity::PlainLoopback {
            role: role(&edge.plaintext_role)?,
        }),
        (Plaintext::Unix, _) => Ok(EdgeSecurity::PlainUnix {
            role: role(&edge.plaintext_role)?,
        }),
        (Plaintext::Off, Some(files)) => Ok(EdgeSecurity::Tls(EdgeIdentity::load(files)?)),
        (Plaintext::Off, None) => Err(Failure::new(
            "[edge] needs client_ca, cert and key; to go without TLS, set plaintext = \"loopback\" \
             on a loopback address, or plaintext = \"unix\" and listen = \"unix:PATH\"",
        )),
    }
}

#[cfg(feature = "insecure-edge")]
fn anywhere(role: Role) -> Result<EdgeSecurity, Failure> {
    Ok(EdgeSecurity::PlainAnywhere { role })
}

#[cfg(not(feature = "insecure-edge"))]
fn anywhere(_: Role) -> Result<EdgeSecurity, Failure> {
    Err(Failure::new(
        "[edge] allow_plaintext_anywhere: this program was built without the feature insecure-edge, \
         and so serves nobody in plain text but on this machine; give the edge certificates instead",
    ))
}
