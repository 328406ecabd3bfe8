//! Typed details of a gRPC status.
//!
//! They travel as `google.rpc.Status` in `grpc-status-details-bin`, the convention that grpcurl and
//! the client libraries know.

use prost::{Message, Name};
use tonic::Status;

#[cfg(feature = "grpc")]
pub(super) use making::{RetryDelay, RetryInfo, any, with_detail, with_details};

/// The messages of google.rpc and google.protobuf that details need, field for field.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The detail of type `M` that a status carries, if it carries one.
///
/// For callers of the services: `detail::<NotLeader>(&status)` says who leads.
pub fn detail<M: Message + Name + Default>(status: &Status) -> Option<M> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let name = M::full_name();
    let any = details
        .iter()
        .find(|any| any.type_url.strip_prefix(TYPE_PREFIX) == Some(&name))?;
    M::decode(any.value.as_slice()).ok()
}

/// The servers' side.
#[cfg(feature = "grpc")]
mod making {
    use prost::{Message, Name};
    use tonic::{Code, Status};

    use super::{Any, RpcStatus, TYPE_PREFIX};

    #[derive(Clone, PartialEq, Message)]
    pub(in crate::grpc) struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        pub(in crate::grpc) retry_delay: Option<RetryDelay>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(in crate::grpc) struct RetryDelay {
        #[prost(int64, tag = "1")]
        pub(in crate::grpc) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(in crate::grpc) nanos: i32,
    }

    pub(in crate::grpc) fn any<M: Message>(name: &str, message: &M) -> Any {
        Any {
            type_url: format!("{TYPE_PREFIX}{name}"),
            value: message.encode_to_vec(),
        }
    }

    pub(in crate::grpc) fn with_details(code: Code, message: String, details: Vec<Any>) -> Status {
        let status = RpcStatus {
            code: code as i32,
            message: message.clone(),
            details,
        };
        Status::with_details(code, message, status.encode_to_vec().into())
    }

    pub(in crate::grpc) fn with_detail<M: Message + Name>(
        code: Code,
        message: String,
        detail: &M,
    ) -> Status {
        with_details(code, message, vec![any(&M::full_name(), detail)])
    }
}
