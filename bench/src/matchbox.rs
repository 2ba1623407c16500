//! An unmodified matchbox client, as third parties use it, behind the same interface as our own: what the shard serves is
//! matchbox's protocol, not only ours.

use futures_util::StreamExt;
use matchbox_socket::{ChannelConfig, MessageLoopFuture, PeerId, PeerState, RtcIceServerConfig, WebRtcSocket};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vsekai_net::webrtc::Connection;
use vsekai_schema::wire::{CHANNEL_COMMAND, CHANNEL_STATE};

/// How long a connection that is closed stays: matchbox does not tell what the other side acknowledged.
const FAREWELL_DELAY: Duration = Duration::from_millis(500);

/// Connects to the signalling address `url` and returns when both channels are open. A [`Connection::close`] waits half a
/// second instead of for acknowledgements.
///
/// # Errors
/// When that takes longer than `deadline`, or the client gives up; the text says which.
pub async fn connect(url: &str, deadline: Duration) -> Result<Connection, String> {
    let (mut socket, mut message_loop) = WebRtcSocket::builder(url)
        // The shard's own address is all that is needed: no help of servers elsewhere.
        .ice_server(RtcIceServerConfig { urls: Vec::new(), username: None, credential: None })
        .add_channel(ChannelConfig::unreliable())
        .add_channel(ChannelConfig::reliable())
        .build();
    let shard = tokio::select! {
        ended = &mut message_loop => return Err(format!("matchbox gave up: {ended:?}")),
        change = socket.next() => match change {
            Some((shard, PeerState::Connected)) => shard,
            other => return Err(format!("matchbox says {other:?}")),
        },
        () = tokio::time::sleep(deadline) => return Err(format!("matchbox did not connect within {deadline:?}")),
    };
    Ok(Connection::driven(|incoming, outgoing, stop| drive(socket, shard, message_loop, incoming, outgoing, stop)))
}

/// Passes messages on until the connection ends; returns why.
async fn drive(
    mut socket: WebRtcSocket,
    shard: PeerId,
    mut message_loop: MessageLoopFuture,
    incoming: mpsc::Sender<(usize, Vec<u8>)>,
    mut outgoing: mpsc::Receiver<(usize, Vec<u8>)>,
    mut stop: oneshot::Receiver<()>,
) -> String {
    let [mut state, mut command] =
        [CHANNEL_STATE, CHANNEL_COMMAND].map(|channel| socket.take_channel(channel).expect("it was added, and once"));
    let mut closing = None;
    loop {
        let received = tokio::select! {
            // What came is passed on before an end is: the last message is often the reason for it.
            biased;
            message = state.next() => message.map(|(_, bytes)| (CHANNEL_STATE, bytes)),
            message = command.next() => message.map(|(_, bytes)| (CHANNEL_COMMAND, bytes)),
            Some((channel, bytes)) = outgoing.recv() => {
                let channel = if channel == CHANNEL_STATE { &mut state } else { &mut command };
                if channel.try_send(bytes.into(), shard).is_err() {
                    return "matchbox takes no more messages".into();
                }
                continue;
            }
            change = socket.next() => match change {
                Some((peer, PeerState::Disconnected)) if peer == shard => return "the server ended the connection".into(),
                Some(_) => continue,
                None => return "matchbox ended".into(),
            },
            ended = &mut message_loop => return format!("matchbox ended: {ended:?}"),
            // Sent, or the connection was dropped.
            _ = &mut stop, if closing.is_none() => {
                closing = Some(tokio::time::Instant::now() + FAREWELL_DELAY);
                continue;
            }
            () = until(closing) => return "closed".into(),
        };
        let Some((channel, bytes)) = received else { return "matchbox closed a channel".into() };
        // As our own client does it: nobody reads, so a datagram is lost and anything else is the end.
        let refused = incoming.try_send((channel, bytes.into())).is_err();
        if refused && channel == CHANNEL_COMMAND && closing.is_none() {
            return "messages were not read fast enough".into();
        }
    }
}

/// Waits for that time; for ever without one.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
