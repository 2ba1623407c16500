//! One WebRTC connection with the two channels of the wire. No I/O: packets and time in, packets, events and the next
//! timeout out. Used by both ends.
//!
//! A fault inside the WebRTC library, whatever a peer sent to provoke it, ends this connection only.

use crate::transport::RELIABLE_BACKLOG_BYTES_MAX;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::net::{DatagramRecv, Protocol, Receive, Transmit};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig, RtcError};
use vsekai_schema::wire::{CHANNEL_COMMAND, CHANNEL_STATE};

/// Most bytes of the state channel that wait in the library: what is older than a few ticks is not worth sending. Together
/// with [`COMMAND_BUFFERED_BYTES_MAX`] no more than the 128 KiB that the library takes, so that neither channel starves.
const STATE_BUFFERED_BYTES_MAX: usize = 48 * 1024;
/// From how many bytes of the command channel in the library on the rest waits here. One message may go beyond it.
const COMMAND_BUFFERED_BYTES_MAX: usize = 64 * 1024;

/// What a connection reports.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Both channels are open.
    Open,
    /// A message arrived.
    Message {
        /// `CHANNEL_STATE` or `CHANNEL_COMMAND`.
        channel: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The connection is over, for this reason. Comes once and last.
    Ended(String),
}

/// Where a connection leaves what is to be done.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// To be sent by UDP.
    pub(super) packets: Vec<Transmit>,
    /// To be handled by the owner.
    pub(super) events: Vec<LinkEvent>,
}

/// One connection.
pub(super) struct Link {
    rtc: Rtc,
    channels: [ChannelId; 2],
    open: [bool; 2],
    /// ICE and DTLS are done. Channels whose greeting went with offer and answer open before that, on paper.
    secured: bool,
    pending: Option<SdpPendingOffer>,
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    timeout: Instant,
    ended: bool,
}

impl Link {
    /// The side that offers: the server. Returns the offer as SDP. `addresses` are where it can be reached.
    pub(super) fn offer(config: RtcConfig, addresses: &[SocketAddr], now: Instant) -> Result<(Link, String), RtcError> {
        let mut rtc = config.build(now);
        for &address in addresses {
            rtc.add_local_candidate(host_candidate(address)?);
        }
        let mut changes = rtc.sdp_api();
        let channels = channel_configs().map(|config| changes.add_channel_with_config(config));
        let (offer, pending) = changes.apply().expect("two channels were added, so there is something to offer");
        let sdp = offer.to_sdp_string();
        let mut link = Link::new(rtc, channels, now);
        link.pending = Some(pending);
        Ok((link, sdp))
    }

    /// The side that answers: the client. Returns the answer as SDP. `address` is that of its own socket.
    pub(super) fn answer(
        config: RtcConfig,
        address: SocketAddr,
        offer: &str,
        now: Instant,
    ) -> Result<(Link, String), RtcError> {
        let mut rtc = config.build(now);
        rtc.add_local_candidate(host_candidate(address)?);
        let offer = SdpOffer::from_sdp_string(offer)?;
        let answer = rtc.sdp_api().accept_offer(offer)?;
        let channels = channel_configs().map(|config| rtc.direct_api().create_data_channel(config));
        Ok((Link::new(rtc, channels, now), answer.to_sdp_string()))
    }

    fn new(rtc: Rtc, channels: [ChannelId; 2], now: Instant) -> Link {
        Link {
            rtc,
            channels,
            open: [false; 2],
            secured: false,
            pending: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            timeout: now,
            ended: false,
        }
    }

    /// When [`Link::tick`] wants to be called.
    pub(super) fn timeout(&self) -> Instant {
        self.timeout
    }

    /// Is the other side's answer still missing?
    pub(super) fn awaits_answer(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes the other side's answer; one that makes no sense ends the connection. Its candidates are not looked at: an
    /// ICE-lite side learns the address from the checks, and odd candidates (mDNS, TCP) are no reason to fail.
    pub(super) fn accept_answer(&mut self, sdp: &str, out: &mut Outbox) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let sdp: String = sdp
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates"))
            .collect();
        self.run(out, |rtc| {
            let answer = SdpAnswer::from_sdp_string(&sdp)?;
            rtc.sdp_api().accept_answer(pending, answer)
        });
    }

    /// Would the connection take this packet as its own? Verifies the integrity of STUN.
    pub(super) fn accepts(&self, now: Instant, source: SocketAddr, destination: SocketAddr, packet: &[u8]) -> bool {
        catch_unwind(AssertUnwindSafe(|| {
            input(now, source, destination, packet).is_some_and(|input| self.rtc.accepts(&input))
        }))
        .unwrap_or(false)
    }

    /// A packet arrived. One that cannot be read is ignored: anybody can send it under any address.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        source: SocketAddr,
        destination: SocketAddr,
        packet: &[u8],
        out: &mut Outbox,
    ) {
        self.run(out, |rtc| {
            let Some(input) = input(now, source, destination, packet) else {
                return Ok(());
            };
            match rtc.handle_input(input) {
                Err(error) if rtc.is_alive() => {
                    tracing::debug!(%source, %error, "a packet was ignored");
                    Ok(())
                }
                outcome => outcome,
            }
        });
    }

    /// Time went by.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Outbox) {
        self.run(out, |rtc| rtc.handle_input(Input::Timeout(now)));
    }

    /// Sends one message. False when it was dropped: a datagram because too many wait already, any message because the
    /// connection is not open or ends by this very call, its backlog being full.
    pub(super) fn send(&mut self, channel: usize, bytes: Vec<u8>, out: &mut Outbox) -> bool {
        if self.ended || !self.is_open() {
            return false;
        }
        if channel == CHANNEL_COMMAND {
            if self.backlog_bytes + bytes.len() > RELIABLE_BACKLOG_BYTES_MAX {
                self.end("messages were not read fast enough".into(), out);
                return false;
            }
            self.backlog_bytes += bytes.len();
            self.backlog.push_back(bytes);
            self.run(out, |_| Ok(()));
            return !self.ended;
        }
        let id = self.channels[CHANNEL_STATE];
        let mut written = false;
        self.run(out, |rtc| {
            if let Some(mut channel) = rtc.channel(id)
                && channel.buffered_amount() + bytes.len() <= STATE_BUFFERED_BYTES_MAX
            {
                written = channel.write(true, &bytes)?;
            }
            Ok(())
        });
        written
    }

    /// Has the other side acknowledged everything that was sent on the command channel?
    pub(super) fn is_flushed(&mut self) -> bool {
        self.ended
            || self.backlog.is_empty()
                && self.rtc.channel(self.channels[CHANNEL_COMMAND]).is_none_or(|mut c| c.buffered_amount() == 0)
    }

    /// Ends the connection and tells the other side.
    pub(super) fn end(&mut self, reason: String, out: &mut Outbox) {
        if self.ended {
            return;
        }
        self.ended = true;
        let farewell = catch_unwind(AssertUnwindSafe(|| {
            // A close that fails leaves the other side to notice by itself.
            if self.rtc.is_alive() && self.rtc.close().is_ok() {
                loop {
                    match self.rtc.poll_output() {
                        Ok(Output::Transmit(packet)) => out.packets.push(packet),
                        Ok(Output::Event(_)) => {}
                        Ok(Output::Timeout(_)) | Err(_) => break,
                    }
                }
            }
        }));
        if farewell.is_err() {
            tracing::debug!("the WebRTC library failed while closing");
        }
        self.backlog.clear();
        self.backlog_bytes = 0;
        out.events.push(LinkEvent::Ended(reason));
    }

    /// One mutation and everything that follows from it. The library wants its output drained after each.
    fn run(&mut self, out: &mut Outbox, step: impl FnOnce(&mut Rtc) -> Result<(), RtcError>) {
        if self.ended {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            step(&mut self.rtc).map_err(|error| error.to_string())?;
            loop {
                self.drain(out)?;
                if !self.write_backlog().map_err(|error| error.to_string())? {
                    return Ok(());
                }
            }
        }));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.end(reason, out),
            Err(_) => {
                // What state it is in nobody knows: it is not touched again.
                self.rtc.disconnect();
                self.end("the WebRTC library failed".into(), out);
            }
        }
    }

    /// Takes all output up to the next timeout. An error is the reason why the connection is over.
    fn drain(&mut self, out: &mut Outbox) -> Result<(), String> {
        let mut over = None;
        loop {
            match self.rtc.poll_output().map_err(|error| error.to_string())? {
                Output::Timeout(timeout) => {
                    self.timeout = timeout;
                    if over.is_none() && !self.rtc.is_alive() {
                        over = Some("the connection closed".into());
                    }
                    return over.map_or(Ok(()), Err);
                }
                Output::Transmit(packet) => out.packets.push(packet),
                Output::Event(Event::Connected) => self.opened(out, |link| link.secured = true),
                Output::Event(Event::ChannelOpen(id, _)) => {
                    if let Some(channel) = self.index_of(id) {
                        self.opened(out, |link| link.open[channel] = true);
                    }
                }
                Output::Event(Event::ChannelData(data)) => {
                    // The command channel opens last, so only datagrams can come too early, and those may be lost.
                    if let Some(channel) = self.index_of(data.id)
                        && self.is_open()
                    {
                        out.events.push(LinkEvent::Message { channel, bytes: data.data });
                    }
                }
                Output::Event(Event::ChannelClose(_)) => over = over.or(Some("the peer closed a channel".into())),
                Output::Event(Event::Closed) => over = over.or(Some("the peer closed the connection".into())),
                Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    over = over.or(Some("the peer does not answer any more".into()));
                }
                Output::Event(_) => {}
            }
        }
    }

    /// Moves waiting messages into the library as far as it has room. Every acknowledgement comes as a packet, and after
    /// every packet this is called: no other signal is needed for the rest to follow.
    fn write_backlog(&mut self) -> Result<bool, RtcError> {
        let mut wrote = false;
        while let Some(message) = self.backlog.front() {
            let Some(mut channel) = self.rtc.channel(self.channels[CHANNEL_COMMAND]) else {
                break;
            };
            if channel.buffered_amount() >= COMMAND_BUFFERED_BYTES_MAX || !channel.write(true, message)? {
                break;
            }
            wrote = true;
            self.backlog_bytes -= message.len();
            self.backlog.pop_front();
        }
        Ok(wrote)
    }

    fn is_open(&self) -> bool {
        self.secured && self.open == [true; 2]
    }

    /// Notes that one thing more is ready, and reports the last of them.
    fn opened(&mut self, out: &mut Outbox, note: impl FnOnce(&mut Link)) {
        let before = self.is_open();
        note(self);
        if self.is_open() && !before {
            out.events.push(LinkEvent::Open);
        }
    }

    fn index_of(&self, id: ChannelId) -> Option<usize> {
        self.channels.iter().position(|&channel| channel == id)
    }
}

/// The channels of the wire as matchbox names and numbers them.
fn channel_configs() -> [ChannelConfig; 2] {
    [CHANNEL_STATE, CHANNEL_COMMAND].map(|channel| ChannelConfig {
        label: format!("matchbox_socket_{channel}"),
        ordered: channel == CHANNEL_COMMAND,
        reliability: match channel {
            CHANNEL_COMMAND => Reliability::Reliable,
            _ => Reliability::MaxRetransmits { retransmits: 0 },
        },
        negotiated: Some(channel as u16),
        protocol: String::new(),
    })
}

fn host_candidate(address: SocketAddr) -> Result<Candidate, RtcError> {
    Ok(Candidate::host(address, Protocol::Udp)?)
}

/// A UDP packet as the library wants it; `None` when it is none of STUN, DTLS and RTP.
fn input(now: Instant, source: SocketAddr, destination: SocketAddr, packet: &[u8]) -> Option<Input<'_>> {
    let contents = DatagramRecv::try_from(packet).ok()?;
    Some(Input::Receive(now, Receive { proto: Protocol::Udp, source, destination, contents }))
}
