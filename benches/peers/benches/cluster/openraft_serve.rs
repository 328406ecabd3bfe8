//! The other end of openraft's network over TCP: what a node answers.

use std::io;

use futures_util::{StreamExt, stream};
use openraft::alias::SnapshotOf;
use tokio::io::BufReader;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::openraft_cluster::Node;
use super::openraft_store::Types;
use super::openraft_tcp::{Answer, Ask, receive, send, split};

/// Appends that were read and that the node has not taken yet.
const WAITING: usize = 64;

/// Answers whoever connects, for as long as the runtime is there.
pub(super) async fn serve(listener: TcpListener, node: Node) {
    while let Ok((connection, _)) = listener.accept().await {
        let node = node.clone();
        // It ends with its connection, which is the other node's to close.
        tokio::spawn(async move { serve_one(node, connection).await });
    }
}

async fn serve_one(node: Node, connection: TcpStream) -> io::Result<()> {
    let (mut read, mut write) = split(connection)?;
    loop {
        let answer = match receive(&mut read).await? {
            Ask::Next(first) => {
                serve_row(&node, first, &mut read, &mut write).await?;
                Answer::End
            }
            Ask::End => Answer::End,
            Ask::Append(rpc) => {
                let answer = node.append_entries(rpc).await;
                Answer::Append(answer.map_err(io::Error::other)?)
            }
            Ask::Vote(rpc) => Answer::Vote(node.vote(rpc).await.map_err(io::Error::other)?),
            Ask::Snapshot(vote, meta, snapshot) => {
                let snapshot = SnapshotOf::<Types, u64> { meta, snapshot };
                let answer = node.install_full_snapshot(vote, snapshot).await;
                Answer::Snapshot(answer.map_err(io::Error::other)?)
            }
        };
        send(&mut write, &answer).await?;
    }
}

/// Answers a row while the rest of it is read.
async fn serve_row(
    node: &Node,
    first: openraft::raft::AppendEntriesRequest<Types>,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let row = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|rpc| (rpc, receiver))
    });
    let mut answers = Box::pin(node.stream_append(row));
    let reading = async move {
        let mut next = Some(first);
        while let Some(rpc) = next {
            // Nobody takes it once an append was refused; what follows is read all the same.
            let _ = sender.send(rpc).await;
            next = match receive(read).await? {
                Ask::Next(rpc) => Some(rpc),
                _ => None,
            };
        }
        Ok(())
    };
    let answering = async {
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(io::Error::other)?;
            send(write, &Answer::Next(answer)).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, answering).map(|_: ((), ())| ())
}
