//! What the client edge listens on: TCP, or a unix socket for programs of the same user.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// See [`serve`](super::serve).
#[derive(Debug)]
pub enum EdgeListener {
    /// TCP, with TLS unless it is on loopback.
    Tcp(TcpListener),
    /// A unix socket, without TLS.
    Unix(UnixSocket),
}

impl From<TcpListener> for EdgeListener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixSocket> for EdgeListener {
    fn from(socket: UnixSocket) -> Self {
        Self::Unix(socket)
    }
}

/// Where a client edge listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection that was accepted, and for TCP from where.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    /// None for a unix socket.
    pub(super) fn from(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, from) => Some(*from),
            Self::Unix(_) => None,
        }
    }
}

impl EdgeListener {
    /// Where it listens.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn address(&self) -> io::Result<EdgeAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(EdgeAddress::Tcp),
            Self::Unix(socket) => Ok(EdgeAddress::Unix(socket.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, from))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok(Accepted::Unix(stream))
            }
        }
    }
}

/// A unix socket of mode 0600. Its file goes when it is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`, on the tokio runtime of the caller. What an earlier run left there, and nobody
    /// listens on, gives way.
    ///
    /// # Errors
    /// If something that is no socket is there, or a socket on which somebody listens; if the path is longer
    /// than a socket's may be (107 bytes); if its directory cannot be written to.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        give_way(&path)?;
        let listener = UnixListener::bind(&path)?;
        // Who connected before this is looked at all the same, see `is_own_user`.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let file = identity(&path)?;
        Ok(Self {
            listener,
            path,
            file,
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Not one that somebody else has put in its place.
        if identity(&self.path).ok() == Some(self.file) {
            // What is left over gives way at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes a socket that nobody listens on.
fn give_way(path: &Path) -> io::Result<()> {
    let refused = |kind, what: &str| {
        let path = path.display();
        let why = format!("{path} {what}: choose another path, or see what it is");
        Err(io::Error::new(kind, why))
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return refused(
                io::ErrorKind::AlreadyExists,
                "is there and is no unix socket",
            );
        }
        Ok(_) => {}
    }
    match Probe::connect(path) {
        Ok(_) => refused(
            io::ErrorKind::AddrInUse,
            "is a socket on which somebody listens",
        ),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Whether the program at the other end is this one's user's, or root's: beside the file's mode, which is
/// set only after the socket is there.
///
/// # Errors
/// Who it is instead, for the log.
pub(super) fn is_own_user(stream: &UnixStream) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred().map_err(|error| error.to_string())?;
    is_for(peer.uid(), own)
}

fn is_for(peer: u32, own: u32) -> Result<(), String> {
    match peer == own || peer == 0 {
        true => Ok(()),
        false => Err(format!(
            "a program of user {peer} on the unix socket, which is for user {own} only"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i8_a_unix_socket_is_its_owners_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("edge.sock");
        let socket = UnixSocket::bind(&path).expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = UnixSocket::bind(&path).expect_err("somebody listens");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_left_over_gives_way_and_what_is_no_socket_does_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("edge.sock");
        // Dropped, this leaves its file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let socket = UnixSocket::bind(&path).expect("the file gave way");
        // Somebody else's file in its place stays.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        drop(socket);
        let error = UnixSocket::bind(&path).expect_err("no socket");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("there"), "mine");
    }

    #[tokio::test]
    async fn i8_only_this_user_is_served() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert_eq!(is_own_user(&one), Ok(()));
        assert_eq!((is_for(1000, 1000), is_for(0, 1000)), (Ok(()), Ok(())));
        assert!(is_for(1001, 1000).is_err() && is_for(1000, 0).is_err());
    }
}
