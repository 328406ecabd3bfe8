//! Calls by their names, with bytes as messages: what a caller does who has descriptors and no generated code.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use prost_reflect::MethodDescriptor;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// No call that is made here takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let bytes = from.remaining();
        Ok(Some(from.copy_to_bytes(bytes)))
    }
}

/// The first message that `path` (`/package.Service/Method`) answers one message with; none if it ends
/// without.
///
/// # Errors
/// What the call is refused with, before or in place of the first message.
pub(crate) async fn call(
    channel: &Channel,
    path: &str,
    message: Bytes,
) -> Result<Option<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = path.parse().expect("a path");
    // On the wire a single message is a stream of one.
    let request = Request::new(tokio_stream::once(message));
    let first = async {
        let answers = grpc.streaming(request, path, Raw).await?;
        answers.into_inner().message().await
    };
    match tokio::time::timeout(PATIENCE, first).await {
        Ok(first) => first,
        Err(_) => panic!("no answer within {PATIENCE:?}"),
    }
}

/// Where calls of `method` go.
pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}
