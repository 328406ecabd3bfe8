//! The caller's side of the commands that talk to a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conveyor_raft::client::{ClientError, ClientOptions};
use conveyor_raft::grpc::{ConnectError, EdgeFiles, EdgeIdentity, connect, detail};
use conveyor_raft::proto::{Certainty, NotAppended, NotLeader, OutcomeUnknown};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::cli::ClientArgs;
use crate::failure::{Context, Exit, Failure};
use crate::output::{self, say};

/// Where a cluster is, and who asks.
pub(crate) struct Client {
    endpoints: Vec<String>,
    identity: Option<EdgeIdentity>,
    timeout: Duration,
    /// Follows the leader.
    pub(crate) cluster: conveyor_raft::client::Client,
    pub(crate) json: bool,
}

impl Client {
    pub(crate) fn new(args: ClientArgs) -> Result<Self, Failure> {
        Self::passing_on(args, false)
    }

    /// `forward`: a node that does not lead passes commands on.
    pub(crate) fn passing_on(args: ClientArgs, forward: bool) -> Result<Self, Failure> {
        let file = match &args.config {
            Some(path) => Settings::read(path)?,
            None => Settings::default(),
        };
        let endpoints = match args.endpoints.is_empty() {
            true => file.endpoints,
            false => args.endpoints,
        };
        let files = match args.certs {
            Some(dir) => Some(EdgeFiles {
                ca: dir.join("client-ca.pem"),
                cert: dir.join("clients/operator.pem"),
                key: dir.join("clients/operator.key"),
                crl: Some(dir.join("client-ca.crl")),
            }),
            None => together(
                args.ca.or(file.ca),
                args.cert.or(file.cert),
                args.key.or(file.key),
            )?,
        };
        let identity = files.as_ref().map(EdgeIdentity::load).transpose()?;
        let timeout = Duration::from_secs(args.timeout);
        let mut options = ClientOptions::new(&endpoints, identity.clone());
        options.deadline = timeout;
        options.forward = forward;
        Ok(Self {
            cluster: conveyor_raft::client::Client::new(options)?,
            endpoints,
            identity,
            timeout,
            json: args.json,
        })
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) async fn channel(&self, endpoint: &str) -> Result<Channel, Failure> {
        let channel = connect(endpoint, self.identity.as_ref()).await;
        channel.map_err(|error| {
            let exit = match &error {
                // Where TLS says no, asking again is of no use; of that there is only the text.
                ConnectError::Unreachable { why, .. } if why.contains("certificate") => {
                    Exit::Denied
                }
                ConnectError::Unreachable { .. } => Exit::Unavailable,
                _ => Exit::Failed,
            };
            Failure::from(error).with(exit)
        })
    }

    /// The first endpoint that answers.
    pub(crate) async fn any(&self) -> Result<Channel, Failure> {
        let mut last = Failure::new("no endpoint given");
        for endpoint in &self.endpoints {
            match self.channel(endpoint).await {
                Ok(channel) => return Ok(channel),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Asks every endpoint, and prints what each answers: in words, or as a line of JSON.
    ///
    /// # Errors
    /// Which gave no `wanted`; why is said on standard error.
    pub(crate) async fn ask_each<T: Serialize>(
        &self,
        wanted: &str,
        ask: impl AsyncFn(&str) -> Result<T, Failure>,
        in_words: impl Fn(&str, &T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut failed, mut exit) = (Vec::new(), Exit::Failed);
        for endpoint in &self.endpoints {
            match ask(endpoint).await {
                Ok(answer) if self.json => say!("{}", output::json(&answer)?),
                Ok(answer) => in_words(endpoint, &answer)?,
                Err(failure) => {
                    eprintln!("{endpoint}: {failure}");
                    failed.push(endpoint.as_str());
                    exit = failure.exit();
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let failed = failed.join(", ");
        Err(Failure::new(format!("no {wanted} from {failed}")).with(exit))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// What `--config` names.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Settings {
    fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path);
        let text = text.context(format!("cannot read {}", path.display()))?;
        let mut settings: Self = toml::from_str(&text).context(path.display())?;
        let base = path.parent().unwrap_or(Path::new(""));
        let paths = [&mut settings.ca, &mut settings.cert, &mut settings.key];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        Ok(settings)
    }
}

fn together(
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<EdgeFiles>, Failure> {
    match (ca, cert, key) {
        (Some(ca), Some(cert), Some(key)) => Ok(Some(EdgeFiles {
            ca,
            cert,
            key,
            crl: None,
        })),
        (None, None, None) => Ok(None),
        _ => Err(Failure::new(
            "--ca, --cert and --key go together: give all three, or --certs",
        )),
    }
}

/// Why a call failed, as a failure.
pub(crate) fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Refused(status) => failure_of(&status),
        error => {
            let exit = match &error {
                ClientError::Deadline { .. } => Exit::Unavailable,
                error if error.certainty() == Certainty::Unknown => Exit::Unknown,
                _ => Exit::Failed,
            };
            Failure::new(error.to_string()).with(exit)
        }
    }
}

/// What a script can do about a status.
fn exit_of(status: &Status) -> Exit {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        _ if detail::<OutcomeUnknown>(status).is_some() => Exit::Unknown,
        _ if detail::<NotLeader>(status).is_some() => Exit::Unavailable,
        Code::DeadlineExceeded if detail::<NotAppended>(status).is_some() => Exit::Unavailable,
        Code::Unavailable | Code::ResourceExhausted => Exit::Unavailable,
        Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Exit::Unknown,
        _ => Exit::Failed,
    }
}

/// The same of a call that changes nothing: whatever happened, it can be made again.
pub(crate) fn unread(status: &Status) -> Failure {
    let failure = failure_of(status);
    match failure.exit() {
        Exit::Unknown => failure.with(Exit::Unavailable),
        _ => failure,
    }
}

/// A status as a failure, with the leader it names.
pub(crate) fn failure_of(status: &Status) -> Failure {
    let text = match status.message() {
        "" => status.code().description(),
        text => text,
    };
    let failure = match detail::<NotLeader>(status) {
        Some(hint) if !hint.leader_endpoint.is_empty() && !text.contains(&hint.leader_endpoint) => {
            Failure::new(format!("{text}; the leader is at {}", hint.leader_endpoint))
        }
        _ => Failure::new(format!("{:?}: {text}", status.code())),
    };
    failure.with(exit_of(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_told_by_the_exit_code_what_it_can_do() {
        let of = |code| exit_of(&Status::new(code, "why"));
        assert_eq!(of(Code::PermissionDenied), Exit::Denied);
        assert_eq!(of(Code::Unauthenticated), Exit::Denied);
        assert_eq!(of(Code::Unavailable), Exit::Unavailable);
        assert_eq!(of(Code::ResourceExhausted), Exit::Unavailable);
        assert_eq!(of(Code::DeadlineExceeded), Exit::Unknown);
        assert_eq!(of(Code::InvalidArgument), Exit::Failed);
        let late = ClientError::Deadline { why: String::new() };
        assert_eq!(failure(late).exit(), Exit::Unavailable);
        let unknown = ClientError::Unknown { why: String::new() };
        assert_eq!(failure(unknown).exit(), Exit::Unknown);
        assert_eq!(failure(ClientError::AnswerNotKept).exit(), Exit::Failed);
    }
}
