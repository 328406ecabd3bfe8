//! The caller's side of the commands that talk to a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conveyor_raft::grpc::{EdgeFiles, EdgeIdentity, connect, detail};
use conveyor_raft::proto::NotLeader;
use serde::Deserialize;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::cli::ClientArgs;
use crate::failure::{Context, Failure};

/// Tries of one call while the cluster elects; with the pauses, about ten election timeouts.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// Where a cluster is, and who asks.
pub(crate) struct Client {
    endpoints: Vec<String>,
    identity: Option<EdgeIdentity>,
    timeout: Duration,
    pub(crate) json: bool,
}

impl Client {
    pub(crate) fn new(args: ClientArgs) -> Result<Self, Failure> {
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
        Ok(Self {
            endpoints,
            identity,
            timeout: Duration::from_secs(args.timeout),
            json: args.json,
        })
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) async fn channel(&self, endpoint: &str) -> Result<Channel, Failure> {
        Ok(connect(endpoint, self.identity.as_ref()).await?)
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

/// Follows the leader from endpoint to endpoint.
pub(crate) struct Leader<'a> {
    client: &'a Client,
    current: Option<Channel>,
    /// What a follower named, to be tried before the endpoints given.
    hint: Option<String>,
    next: usize,
    tries: u32,
}

impl<'a> Leader<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self {
            client,
            current: None,
            hint: None,
            next: 0,
            tries: 0,
        }
    }

    /// A node that may lead.
    pub(crate) async fn channel(&mut self) -> Result<Channel, Failure> {
        loop {
            if let Some(channel) = &self.current {
                return Ok(channel.clone());
            }
            let endpoint = match self.hint.take() {
                Some(hint) => hint,
                None => self.next_endpoint(),
            };
            match self.client.channel(&endpoint).await {
                Ok(channel) => self.current = Some(channel),
                Err(failure) => self.pause(failure).await?,
            }
        }
    }

    /// Learns from a refusal by a node that took nothing; the next channel is another one.
    pub(crate) async fn refused(&mut self, hint: &NotLeader) -> Result<(), Failure> {
        self.current = None;
        let known = !hint.leader_endpoint.is_empty();
        self.hint = known.then(|| hint.leader_endpoint.clone());
        let failure = Failure::new(format!("no leader found: {}", hint.why));
        match known && self.tries == 0 {
            // The common case: a follower was asked first. No reason to wait.
            true => {
                self.tries += 1;
                Ok(())
            }
            false => self.pause(failure).await,
        }
    }

    /// The node cannot be reached or serves no more; the next channel is another one.
    pub(crate) async fn lost(&mut self, failure: Failure) -> Result<(), Failure> {
        self.current = None;
        self.pause(failure).await
    }

    /// The node took something, so the count of failures starts anew.
    pub(crate) fn served(&mut self) {
        self.tries = 0;
    }

    fn next_endpoint(&mut self) -> String {
        let endpoints = self.client.endpoints();
        let endpoint = endpoints.get(self.next % endpoints.len().max(1));
        self.next += 1;
        endpoint.cloned().unwrap_or_default()
    }

    async fn pause(&mut self, failure: Failure) -> Result<(), Failure> {
        self.tries += 1;
        if self.tries >= TRIES {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// A status as a failure, with the leader it names.
pub(crate) fn failure_of(status: &Status) -> Failure {
    let text = match status.message() {
        "" => status.code().description(),
        text => text,
    };
    match detail::<NotLeader>(status) {
        Some(hint) if !hint.leader_endpoint.is_empty() && !text.contains(&hint.leader_endpoint) => {
            Failure::new(format!("{text}; the leader is at {}", hint.leader_endpoint))
        }
        _ => Failure::new(format!("{:?}: {text}", status.code())),
    }
}
