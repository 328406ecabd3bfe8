//! Callers that ask for more connections, streams or headers than there are: they are refused, and all
//! others go on.
#![cfg(feature = "grpc")]

mod grpc_common;

use std::time::{Duration, Instant};

use conveyor_raft::grpc::{ConnectError, Edge, EdgeOptions, EdgeSecurity, Role, connect, serve};
use conveyor_raft::proto::router_client::RouterClient;
use conveyor_raft::proto::{SummaryRequest, WatchRequest};
use conveyor_raft::quic::ClientRole;
use grpc_common::{One, identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Request, Status};

const PATIENCE: Duration = Duration::from_secs(20);

async fn summary(channel: &Channel) -> Result<(), Status> {
    let mut router = RouterClient::new(channel.clone());
    router.summary(SummaryRequest::default()).await.map(drop)
}

#[tokio::test]
async fn i6_a_connection_over_the_limit_is_refused_until_another_one_ends() {
    let one = One::start_with(|options| options.limits.max_connections = 2).await;
    let first = one.channel(ClientRole::Reader).await;
    let second = one.channel(ClientRole::Reader).await;
    let pair = one.certs.ca.issue_client(ClientRole::Operator, "third");
    let third = identity(&one.certs, &pair.expect("client"));
    // Whoever comes is refused, before it is known who it is.
    for _ in 0..3 {
        let refused = connect(&one.endpoint(), Some(&third)).await;
        assert!(
            matches!(refused, Err(ConnectError::Unreachable { .. })),
            "{refused:?}"
        );
    }
    for channel in [&first, &second] {
        summary(channel).await.expect("it goes on");
    }
    drop(first);
    let begun = Instant::now();
    let third = loop {
        match connect(&one.endpoint(), Some(&third)).await {
            Ok(channel) => break channel,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    summary(&third).await.expect("there is room again");
    one.stop().await;
}

#[tokio::test]
async fn i6_a_call_over_the_limit_of_its_connection_waits_and_other_connections_go_on() {
    let one = One::start_with(|options| options.limits.max_streams = 3).await;
    let busy = one.channel(ClientRole::Reader).await;
    let other = one.channel(ClientRole::Reader).await;
    summary(&busy).await.expect("its settings are known now");
    let mut watches = Vec::new();
    for _ in 0..3 {
        let mut router = RouterClient::new(busy.clone());
        let watch = router.watch(WatchRequest::default()).await;
        watches.push(watch.expect("one of three").into_inner());
    }
    let fourth = tokio::spawn({
        let busy = busy.clone();
        async move { summary(&busy).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!fourth.is_finished(), "three are under way");
    summary(&other).await.expect("it goes on");
    drop(watches.pop());
    let ended = tokio::time::timeout(PATIENCE, fourth).await;
    ended
        .expect("in time")
        .expect("joined")
        .expect("there is room again");
    one.stop().await;
}

/// An edge of the same node without TLS, for frames made by hand.
async fn plain(one: &One, max_streams: u32) -> Edge {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let mut options = EdgeOptions::new(EdgeSecurity::PlainLoopback { role: Role::Writer });
    options.limits.max_streams = max_streams;
    let edge = serve(one.node.clone(), options, listener).await;
    edge.expect("edge")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One end of an HTTP/2 connection that keeps to no limit.
struct Rude(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    body: Vec<u8>,
}

impl Frame {
    /// The code with which a stream, or the connection, is ended.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.body[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(code)
    }
}

/// As it is on the wire.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

impl Rude {
    async fn connect(edge: &Edge) -> Self {
        let to = edge.local_addr().expect("over TCP");
        let mut stream = TcpStream::connect(to).await.expect("connected");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.expect("sent");
        let mut rude = Self(stream);
        rude.send(SETTINGS, 0, 0, &[]).await.expect("sent");
        rude
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) -> std::io::Result<()> {
        let frame = frame(kind, flags, stream, body);
        self.0.write_all(&frame).await
    }

    /// The next frame; none once the connection is closed.
    async fn receive(&mut self) -> Option<Frame> {
        let next = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().ok()?);
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream,
                body,
            })
        };
        let next = tokio::time::timeout(PATIENCE, next).await;
        next.expect("a word in time")
    }
}

/// The headers of a call of `method` of the service `Router`, as HPACK without any table of our own.
fn headers(method: &str) -> Vec<u8> {
    let path = format!("/conveyor.raft.v1.Router/{method}");
    // `:method: POST` and `:scheme: http` have numbers; names of the others too.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], path.as_str()),
        (&[0x01], "localhost"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block.extend(b"\x00\x02te\x08trailers");
    block
}

#[tokio::test]
async fn i6_who_opens_more_streams_than_were_offered_has_those_refused_and_no_others() {
    const OFFERED: u32 = 3;
    let one = One::start().await;
    let edge = plain(&one, OFFERED).await;
    let mut rude = Rude::connect(&edge).await;
    let opened: Vec<_> = (0..2 * OFFERED).map(|nth| 2 * nth + 1).collect();
    for stream in &opened {
        let block = headers("ProposeStream");
        let sent = rude.send(HEADERS, END_HEADERS, *stream, &block).await;
        sent.expect("sent");
    }
    let (mut answered, mut refused) = (Vec::new(), Vec::new());
    while answered.len() + refused.len() < opened.len() {
        let frame = rude.receive().await.expect("the connection goes on");
        match frame.kind {
            HEADERS => answered.push(frame.stream),
            RST_STREAM => {
                assert_eq!(frame.code(), REFUSED_STREAM);
                refused.push(frame.stream);
            }
            GOAWAY => panic!("code {}", frame.code()),
            _ => {}
        }
    }
    answered.sort_unstable();
    let (first, others) = opened.split_at(OFFERED as usize);
    assert_eq!((answered.as_slice(), refused.as_slice()), (first, others));
    summary(&one.channel(ClientRole::Reader).await)
        .await
        .expect("others go on");
    edge.shutdown().await;
    one.stop().await;
}

#[tokio::test]
async fn i6_who_opens_streams_and_takes_them_back_at_once_is_cut_off() {
    const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
    let one = One::start().await;
    let edge = plain(&one, 8).await;
    let mut rude = Rude::connect(&edge).await;
    // In one write, so that all are there before the first is taken; it may end in the middle of that.
    let mut all = Vec::new();
    for stream in (1..2000).step_by(2) {
        all.extend(frame(
            HEADERS,
            END_HEADERS,
            stream,
            &headers("ProposeStream"),
        ));
        all.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    let _ = rude.0.write_all(&all).await;
    let mut ended = None;
    while let Some(frame) = rude.receive().await {
        if frame.kind == GOAWAY {
            ended = Some(frame.code());
        }
    }
    // An end of the connection without a word would do; with one, it is this.
    assert!(
        ended.is_none_or(|code| code == ENHANCE_YOUR_CALM),
        "{ended:?}"
    );
    println!("cut off with {ended:?}");
    summary(&one.channel(ClientRole::Reader).await)
        .await
        .expect("others go on");
    edge.shutdown().await;
    one.stop().await;
}

#[tokio::test]
async fn i6_headers_over_the_limit_are_refused_and_the_connection_goes_on() {
    let one = One::start().await;
    let channel = one.channel(ClientRole::Reader).await;
    let with = |bytes: usize| {
        let mut request = Request::new(SummaryRequest::default());
        let value = "x".repeat(bytes).parse().expect("ASCII");
        request.metadata_mut().insert("x-note", value);
        let mut router = RouterClient::new(channel.clone());
        async move { router.summary(request).await.map(drop) }
    };
    with(15 << 10).await.expect("within 16 KiB, all together");
    let refused = with(17 << 10).await.expect_err("over 16 KiB");
    // Said by HTTP, as 431, before it is a call.
    assert!(refused.message().contains("431"), "{refused:?}");
    with(0).await.expect("it goes on");
    one.stop().await;
}

#[tokio::test]
async fn i6_who_never_ends_its_headers_is_cut_off() {
    let one = One::start().await;
    let edge = plain(&one, 8).await;
    let mut rude = Rude::connect(&edge).await;
    rude.send(HEADERS, 0, 1, &headers("Summary"))
        .await
        .expect("sent");
    // Literal headers of 8 KiB each, 64 MiB of them unless it is cut off.
    let mut piece = b"\x00\x01x\x7f\x81\x3f".to_vec();
    piece.extend([b'x'; 8192]);
    let mut sent = 0;
    while sent < 64 << 20 && rude.send(CONTINUATION, 0, 1, &piece).await.is_ok() {
        sent += piece.len();
    }
    let mut ended = None;
    while let Some(frame) = rude.receive().await {
        match frame.kind {
            GOAWAY => ended = Some(frame.code()),
            DATA | HEADERS => panic!("an answer: flags {}", frame.flags),
            _ => {}
        }
    }
    println!("cut off after {sent} bytes, with {ended:?}");
    assert!(sent < 32 << 20, "{sent} bytes");
    summary(&one.channel(ClientRole::Reader).await)
        .await
        .expect("others go on");
    edge.shutdown().await;
    one.stop().await;
}
