//! Who calls: the name and role that a client certificate states.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;

use crate::types::ClusterId;

const SCHEME: &str = "conveyor-raft://";
const MAX_NAME: usize = 63;

/// What a caller may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads, status.
    Reader,
    /// Also proposes.
    Writer,
    /// Also rewinds offsets, and uses the services `Cluster` and `Backup` whole.
    Operator,
}

impl Role {
    /// The role's name in certificates, settings and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; use reader, writer or operator")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        match text {
            "reader" => Ok(Self::Reader),
            "writer" => Ok(Self::Writer),
            "operator" => Ok(Self::Operator),
            _ => Err(ParseRoleError(text.to_owned())),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client whose certificate was verified.
    Client { name: String, role: Role },
    /// Somebody on the plain listener, who has the role that the settings give everyone there.
    Plain { role: Role },
    /// Somebody who showed no certificate: good for health checks.
    Anonymous,
    /// A certificate that counts for nothing here, and why.
    Nobody { why: String },
}

impl Caller {
    /// Reads the verified end-entity certificate of a client of `cluster`.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Self {
        match Subject::of(certificate) {
            Ok(Subject::Client {
                cluster: theirs,
                role,
                name,
            }) if theirs == cluster => Self::Client { name, role },
            Ok(Subject::Client {
                cluster: theirs, ..
            }) => Self::Nobody {
                why: format!("the certificate is for cluster {theirs}, this is {cluster}"),
            },
            Ok(Subject::Edge { node, .. }) => Self::Nobody {
                why: format!("the certificate is that of node {node}'s server, not a client's"),
            },
            Err(why) => Self::Nobody {
                why: why.to_string(),
            },
        }
    }
}

/// What the one URI of a certificate under the client CA names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// `conveyor-raft://CLUSTER/client/ROLE/NAME`
    Client {
        cluster: ClusterId,
        role: Role,
        name: String,
    },
    /// `conveyor-raft://CLUSTER/edge/NODE`
    Edge { cluster: ClusterId, node: u64 },
}

/// A certificate whose URI does not say who it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate must carry exactly one URI; make one with `conveyor-raft certs`")]
    UriCount,
    #[error("the certificate's URI names neither a client nor a server of a cluster")]
    Uri,
}

impl Subject {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, SubjectError> {
        let parsed =
            webpki::EndEntityCert::try_from(certificate).map_err(|_| SubjectError::Unreadable)?;
        let mut uris = parsed.valid_uri_names();
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri).ok_or(SubjectError::Uri),
            _ => Err(SubjectError::UriCount),
        }
    }

    /// Canonical form only: what prints differently from what was read is refused, so that two
    /// spellings never name one subject.
    fn parse(uri: &str) -> Option<Self> {
        let (cluster, rest) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let cluster = cluster.parse().ok()?;
        let mut parts = rest.split('/');
        let subject = match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
            ("client", role, Some(name), None) if valid_name(name) => Self::Client {
                cluster,
                role: role.parse().ok()?,
                name: name.to_owned(),
            },
            ("edge", node, None, None) => Self::Edge {
                cluster,
                node: node.parse().ok().filter(|&node| node > 0)?,
            },
            _ => return None,
        };
        (subject.to_string() == uri).then_some(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client {
                cluster,
                role,
                name,
            } => write!(f, "{SCHEME}{cluster}/client/{role}/{name}"),
            Self::Edge { cluster, node } => write!(f, "{SCHEME}{cluster}/edge/{node}"),
        }
    }
}

fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "00112233445566778899aabbccddeeff";

    fn parse(rest: &str) -> Option<Subject> {
        Subject::parse(&format!("{SCHEME}{CLUSTER}/{rest}"))
    }

    #[test]
    fn roles_include_each_other() {
        assert!(Role::Reader < Role::Writer && Role::Writer < Role::Operator);
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn uris_name_clients_and_servers() {
        let cluster = CLUSTER.parse().expect("id");
        assert_eq!(
            parse("client/writer/shop-1"),
            Some(Subject::Client {
                cluster,
                role: Role::Writer,
                name: "shop-1".into()
            })
        );
        assert_eq!(parse("edge/3"), Some(Subject::Edge { cluster, node: 3 }));
    }

    #[test]
    fn i2_other_uris_name_nobody() {
        for rest in [
            "peer/1",
            "client/root/a",
            "client/writer/",
            "client/writer/A",
            "client/writer/a/b",
            "client/writer/a%2Fb",
            "client/writer",
            "edge/0",
            "edge/03",
            "edge/+3",
            "edge/3/",
            "",
        ] {
            assert_eq!(parse(rest), None, "{rest}");
        }
        let upper = format!("{SCHEME}{}/edge/3", CLUSTER.to_uppercase());
        assert_eq!(Subject::parse(&upper), None);
        assert_eq!(Subject::parse(&format!("https://{CLUSTER}/edge/3")), None);
    }
}
