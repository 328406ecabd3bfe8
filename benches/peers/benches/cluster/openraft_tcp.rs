//! A network for openraft over TCP: frames of a length and a message, appends one behind the other without
//! waiting for answers, as `stream_append` allows. Nothing is encrypted.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use openraft::RaftNetworkFactory;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::openraft_store::Types;

#[derive(Serialize, Deserialize)]
pub(super) enum Ask {
    Append(AppendEntriesRequest<Types>),
    /// One of a row whose answers come in the same order; [`Ask::End`] ends the row.
    Next(AppendEntriesRequest<Types>),
    End,
    Vote(VoteRequest<Types>),
    Snapshot(VoteOf<Types>, SnapshotMetaOf<Types>, u64),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Next(StreamAppendResult<Types>),
    End,
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
}

pub(super) async fn send<M: Serialize>(to: &mut OwnedWriteHalf, message: &M) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame).await
}

pub(super) async fn receive<M: DeserializeOwned>(
    from: &mut BufReader<OwnedReadHalf>,
) -> io::Result<M> {
    let mut frame = vec![0; from.read_u32_le().await? as usize];
    from.read_exact(&mut frame).await?;
    postcard::from_bytes(&frame).map_err(io::Error::other)
}

/// Both directions of a connection.
pub(super) fn split(stream: TcpStream) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((BufReader::with_capacity(1 << 16, read), write))
}

/// Where the nodes listen.
#[derive(Clone)]
pub(crate) struct Tcp(pub(super) Arc<BTreeMap<u64, SocketAddr>>);

impl RaftNetworkFactory<Types> for Tcp {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Link {
        Link {
            address: self.0[&target],
            connection: None,
        }
    }
}

type Connection = (BufReader<OwnedReadHalf>, OwnedWriteHalf);

/// The way to one node; connected when it is needed.
pub(crate) struct Link {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Link {
    /// The connection, for as long as the caller needs it; put back when all is well.
    async fn take(&mut self) -> io::Result<Connection> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => split(TcpStream::connect(self.address).await?),
        }
    }

    async fn ask(&mut self, ask: Ask) -> io::Result<Answer> {
        let (mut read, mut write) = self.take().await?;
        send(&mut write, &ask).await?;
        let answer = receive(&mut read).await?;
        self.connection = Some((read, write));
        Ok(answer)
    }
}

fn unreachable(error: io::Error) -> Unreachable<Types> {
    Unreachable::new(&error)
}

fn unexpected() -> Unreachable<Types> {
    unreachable(io::ErrorKind::InvalidData.into())
}

/// The task that writes a row; it ends with this value.
struct Writer(JoinHandle<io::Result<OwnedWriteHalf>>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write_row<S>(mut row: S, mut write: OwnedWriteHalf) -> io::Result<OwnedWriteHalf>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    while let Some(rpc) = row.next().await {
        send(&mut write, &Ask::Next(rpc)).await?;
    }
    send(&mut write, &Ask::End).await?;
    Ok(write)
}

type Row<'s> = Option<(&'s mut Link, BufReader<OwnedReadHalf>, Writer)>;
type RowAnswer = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// The next answer of a row.
async fn next_answer(row: Row<'_>) -> Option<(RowAnswer, Row<'_>)> {
    let (link, mut read, mut writer) = row?;
    match receive(&mut read).await {
        Ok(Answer::Next(answer)) => Some((Ok(answer), Some((link, read, writer)))),
        Ok(Answer::End) => {
            if let Ok(Ok(write)) = (&mut writer.0).await {
                link.connection = Some((read, write));
            }
            None
        }
        Ok(_) => Some((Err(unexpected().into()), None)),
        Err(error) => Some((Err(unreachable(error).into()), None)),
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.ask(Ask::Append(rpc)).await.map_err(unreachable)? {
            Answer::Append(answer) => Ok(answer),
            _ => Err(unexpected().into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, RowAnswer>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let (read, write) = self.take().await.map_err(unreachable)?;
            let writer = Writer(tokio::spawn(write_row(input, write)));
            let answers = stream::unfold(Some((self, read, writer)), next_answer);
            Ok(Box::pin(answers) as BoxStream<'s, RowAnswer>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Ask::Vote(rpc)).await.map_err(unreachable)? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(unexpected().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, u64>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let ask = Ask::Snapshot(vote, snapshot.meta, snapshot.snapshot);
        match self.ask(ask).await.map_err(unreachable)? {
            Answer::Snapshot(answer) => Ok(answer),
            _ => Err(unexpected().into()),
        }
    }
}
