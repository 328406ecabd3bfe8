//! A caller that has no protos: it learns by server reflection what there is, as grpcurl does, and makes
//! calls from that alone.
#![cfg(feature = "grpc")]

#[path = "grpc_common/by_name.rs"]
mod by_name;
mod grpc_common;

use std::collections::BTreeSet;

use bytes::Bytes;
use conveyor_raft::quic::ClientRole;
use grpc_common::One;
use prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage, Value};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// The server's word on one question.
async fn ask(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = answers.expect("reflection").into_inner().message().await;
    let answer = answer.expect("an answer").expect("one");
    answer.message_response.expect("a word")
}

async fn files(channel: &Channel, question: MessageRequest) -> Vec<FileDescriptorProto> {
    match ask(channel, question).await {
        MessageResponse::FileDescriptorResponse(it) => {
            let files = it.file_descriptor_proto.iter();
            let files = files.map(|file| FileDescriptorProto::decode(&**file));
            files.collect::<Result<_, _>>().expect("files")
        }
        other => panic!("{other:?}"),
    }
}

async fn services(channel: &Channel) -> Vec<String> {
    match ask(channel, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(it) => {
            it.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The file that has `symbol` and all that it needs, each asked for by the name that another one gives.
async fn learnt(channel: &Channel, symbol: &str) -> DescriptorPool {
    let first = MessageRequest::FileContainingSymbol(symbol.to_owned());
    let mut found = files(channel, first).await;
    let mut missing: Vec<_> = found.iter().flat_map(|it| it.dependency.clone()).collect();
    let mut known: BTreeSet<_> = found.iter().map(|it| it.name().to_owned()).collect();
    while let Some(name) = missing.pop() {
        if known.insert(name.clone()) {
            for file in files(channel, MessageRequest::FileByFilename(name)).await {
                missing.extend(file.dependency.clone());
                known.insert(file.name().to_owned());
                found.push(file);
            }
        }
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(found).expect("whole");
    pool
}

fn method(pool: &DescriptorPool, service: &str, name: &str) -> MethodDescriptor {
    let service = pool.get_service_by_name(service).expect("it was asked for");
    let found = service.methods().find(|method| method.name() == name);
    found.expect("a method")
}

async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    message: &DynamicMessage,
) -> Result<DynamicMessage, Status> {
    let path = by_name::path(method);
    let message = Bytes::from(message.encode_to_vec());
    let answer = by_name::call(channel, &path, message).await?;
    let answer = answer.expect("an answer");
    Ok(DynamicMessage::decode(method.output(), answer).expect("as described"))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field).expect(field);
    value.as_str().expect("text").to_owned()
}

fn number(message: &DynamicMessage, field: &str) -> u64 {
    let value = message.get_field_by_name(field).expect(field);
    value.as_u64().expect("a number")
}

/// A message of this type's field, to be filled.
fn empty(of: &DynamicMessage, field: &str) -> DynamicMessage {
    let field = of.descriptor().get_field_by_name(field).expect("a field");
    let kind = field.kind();
    DynamicMessage::new(kind.as_message().expect("a message").clone())
}

/// `ProposeRequest` with a pipeline to create.
fn proposal(pool: &DescriptorPool, id: &str) -> DynamicMessage {
    let propose = method(pool, ROUTER, "Propose");
    let mut request = DynamicMessage::new(propose.input());
    let mut command = empty(&request, "command");
    let mut pipeline = empty(&command, "create_pipeline");
    pipeline.set_field_by_name("pipeline_id", Value::String(id.to_owned()));
    let config = Bytes::from_static(b"stages: 3");
    pipeline.set_field_by_name("config", Value::Bytes(config));
    command.set_field_by_name("create_pipeline", Value::Message(pipeline));
    request.set_field_by_name("command", Value::Message(command));
    request
}

const ROUTER: &str = "conveyor.raft.v1.Router";

#[tokio::test]
async fn who_has_only_what_reflection_tells_proposes_and_reads() {
    let one = One::start().await;
    let channel = one.channel(ClientRole::Writer).await;
    let pool = learnt(&channel, ROUTER).await;

    let propose = method(&pool, ROUTER, "Propose");
    let answer = call(&channel, &propose, &proposal(&pool, "orders")).await;
    let answer = answer.expect("applied");
    let index = number(&answer, "index");
    assert!(index > 0 && number(&answer, "time_ms") > 0);
    assert!(one.node.state().await.pipelines.contains_key("orders"));

    let read = method(&pool, ROUTER, "GetPipeline");
    let mut request = DynamicMessage::new(read.input());
    request.set_field_by_name("pipeline_id", Value::String("orders".into()));
    let answer = call(&channel, &read, &request).await.expect("a record");
    let record = answer.get_field_by_name("pipeline").expect("a field");
    let record = record.as_message().expect("a message");
    assert_eq!(text(record, "pipeline_id"), "orders");
    let config = record.get_field_by_name("config").expect("a field");
    assert_eq!(config.as_bytes().map(|it| &**it), Some(&b"stages: 3"[..]));
    let at = answer.get_field_by_name("at").expect("a field");
    assert!(number(at.as_message().expect("a message"), "index") >= index);

    let refused = call(&channel, &propose, &proposal(&pool, "")).await;
    assert_eq!(refused.expect_err("no id").code(), Code::InvalidArgument);
    one.stop().await;
}

#[tokio::test]
async fn every_service_of_ours_is_described_whole_as_it_was_compiled() {
    let one = One::start().await;
    let channel = one.channel(ClientRole::Reader).await;
    let listed = services(&channel).await;
    let compiled = DescriptorPool::decode(conveyor_raft::proto::FILE_DESCRIPTOR_SET);
    let compiled = compiled.expect("descriptors");
    for service in compiled.services() {
        let name = service.full_name();
        assert!(listed.iter().any(|it| it == name), "{name}: {listed:?}");
        let told = learnt(&channel, name).await;
        let told = told.get_service_by_name(name).expect("its own file");
        let methods = |of: &prost_reflect::ServiceDescriptor| -> Vec<_> {
            let methods = of.methods().map(|it| {
                let types = (it.input(), it.output());
                let streams = (it.is_client_streaming(), it.is_server_streaming());
                let types = (
                    types.0.full_name().to_owned(),
                    types.1.full_name().to_owned(),
                );
                (it.name().to_owned(), types, streams)
            });
            methods.collect()
        };
        assert_eq!(methods(&told), methods(&service), "{name}");
    }
    one.stop().await;
}
