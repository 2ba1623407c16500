use super::*;
use vsekai_schema::wire::CHANNEL_STATE;

const BAD: Faults = Faults { delay_ms: (20, 60), loss_permille: 100, duplicate_permille: 50, reorder_permille: 50 };

/// `VSEKAI_SEED` replays a failure.
fn seed() -> u64 {
    std::env::var("VSEKAI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7)
}

/// Both sides send `count` numbered messages on `channel`, one of each side per 10 ms; returns what arrived at the server
/// and at the client.
fn exchange(seed: u64, faults: Faults, channel: usize, count: u32) -> (Vec<u32>, Vec<u32>) {
    let mut network = Loopback::new(seed, faults);
    let peer = network.connect();
    assert_eq!(network.poll_server(), Some(TransportEvent::Connected { peer, ticket: None }));
    let mut at_server = Vec::new();
    let mut at_client = Vec::new();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes were sent"));
    for step in 0..count + 1_000 {
        if step < count {
            let bytes = step.to_le_bytes().to_vec();
            network.client_send(peer, channel, bytes.clone());
            network.server_command(TransportCommand::Send { peer, channel, bytes });
        }
        network.advance(milliseconds(10 * (step + 1)));
        while let Some(event) = network.poll_server() {
            let TransportEvent::Message { peer: from, channel: on, bytes } = event else {
                panic!("seed {seed}: {event:?}");
            };
            assert_eq!((from, on), (peer, channel));
            at_server.push(number(&bytes));
        }
        while let Some((on, bytes)) = network.poll_client(peer) {
            assert_eq!(on, channel);
            at_client.push(number(&bytes));
        }
    }
    assert_eq!(network.next_arrival(), None);
    assert!(network.is_connected(peer));
    (at_server, at_client)
}

#[test]
fn equal_seeds_give_equal_results_and_others_do_not() {
    let seed = seed();
    for channel in [CHANNEL_STATE, CHANNEL_COMMAND] {
        assert_eq!(exchange(seed, BAD, channel, 500), exchange(seed, BAD, channel, 500));
    }
    assert_ne!(exchange(seed, BAD, CHANNEL_STATE, 500), exchange(seed + 1, BAD, CHANNEL_STATE, 500));
}

#[test]
fn reliable_messages_arrive_once_and_in_order_whatever_happens() {
    let seed = seed();
    let (at_server, at_client) = exchange(seed, BAD, CHANNEL_COMMAND, 2_000);
    let all: Vec<u32> = (0..2_000).collect();
    assert_eq!(at_server, all, "seed {seed}");
    assert_eq!(at_client, all, "seed {seed}");
}

#[test]
fn datagrams_are_lost_at_the_given_rate() {
    let seed = seed();
    let faults = Faults { delay_ms: (5, 5), loss_permille: 200, ..Faults::default() };
    let (at_server, at_client) = exchange(seed, faults, CHANNEL_STATE, 5_000);
    for arrived in [at_server, at_client] {
        // Four standard deviations of a binomial distribution around 4,000.
        assert!((3_887..=4_113).contains(&arrived.len()), "seed {seed}: {} of 5,000", arrived.len());
        assert!(arrived.is_sorted_by(|a, b| a < b), "seed {seed}: only loss was asked for");
    }
}

#[test]
fn datagrams_are_doubled_and_reordered_at_the_given_rates() {
    let seed = seed();
    let doubled = Faults { delay_ms: (5, 10), duplicate_permille: 100, ..Faults::default() };
    let (at_server, _) = exchange(seed, doubled, CHANNEL_STATE, 5_000);
    assert!((5_415..=5_585).contains(&at_server.len()), "seed {seed}: {} of 5,000", at_server.len());

    let reordered = Faults { delay_ms: (5, 10), reorder_permille: 100, ..Faults::default() };
    let (at_server, _) = exchange(seed, reordered, CHANNEL_STATE, 5_000);
    assert_eq!(at_server.len(), 5_000);
    let overtaken = at_server.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((200..=600).contains(&overtaken), "seed {seed}: {overtaken} of 5,000");
}

#[test]
fn without_faults_everything_arrives_at_once() {
    let mut network = Loopback::new(1, Faults::default());
    let peer = network.connect();
    network.client_send(peer, CHANNEL_STATE, vec![1]);
    network.client_send(peer, CHANNEL_COMMAND, vec![2]);
    network.advance(Duration::ZERO);
    assert_eq!(network.poll_server(), Some(TransportEvent::Connected { peer, ticket: None }));
    assert_eq!(network.poll_server(), Some(TransportEvent::Message { peer, channel: CHANNEL_STATE, bytes: vec![1] }));
    assert_eq!(network.poll_server(), Some(TransportEvent::Message { peer, channel: CHANNEL_COMMAND, bytes: vec![2] }));
    assert_eq!(network.poll_server(), None);
}

#[test]
fn delay_is_within_its_range() {
    let mut network = Loopback::new(seed(), Faults { delay_ms: (30, 40), ..Faults::default() });
    let peer = network.connect();
    network.server_command(TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![1] });
    network.advance(milliseconds(29));
    assert_eq!(network.poll_client(peer), None);
    network.advance(milliseconds(40));
    assert_eq!(network.poll_client(peer), Some((CHANNEL_COMMAND, vec![1])));
}

#[test]
fn a_client_that_leaves_is_heard_to_the_end() {
    let mut network = Loopback::new(seed(), BAD);
    let peer = network.connect();
    network.poll_server();
    network.client_send(peer, CHANNEL_COMMAND, vec![9]);
    network.disconnect(peer);
    assert!(!network.is_connected(peer));
    network.client_send(peer, CHANNEL_COMMAND, vec![10]);
    network.server_command(TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![1] });
    network.advance(milliseconds(10_000));
    assert_eq!(network.poll_server(), Some(TransportEvent::Message { peer, channel: CHANNEL_COMMAND, bytes: vec![9] }));
    assert!(matches!(network.poll_server(), Some(TransportEvent::Disconnected { peer: who, .. }) if who == peer));
    assert_eq!(network.poll_server(), None);
    assert_eq!(network.poll_client(peer), None);
    assert_ne!(network.connect(), peer, "ids are not reused");
}

#[test]
fn a_client_sent_away_reads_what_was_sent_before() {
    let mut network = Loopback::new(seed(), BAD);
    let peer = network.connect();
    network.poll_server();
    network.server_command(TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: vec![1] });
    network.server_command(TransportCommand::Disconnect { peer });
    network.client_send(peer, CHANNEL_COMMAND, vec![2]);
    assert!(network.is_connected(peer));
    network.advance(milliseconds(10_000));
    assert!(!network.is_connected(peer));
    assert_eq!(network.poll_client(peer), Some((CHANNEL_COMMAND, vec![1])));
    assert_eq!(network.poll_client(peer), None);
    assert!(matches!(network.poll_server(), Some(TransportEvent::Disconnected { peer: who, .. }) if who == peer));
    assert_eq!(network.poll_server(), None);
}

#[test]
fn a_receiver_that_does_not_read_costs_datagrams_and_then_the_connection() {
    let mut network = Loopback::new(seed(), Faults::default());
    let peer = network.connect();
    network.poll_server();
    for _ in 0..DATAGRAMS_WAITING_MAX + 10 {
        network.server_command(TransportCommand::Send { peer, channel: CHANNEL_STATE, bytes: vec![0] });
    }
    network.advance(milliseconds(1));
    assert!(network.is_connected(peer));
    let received = std::iter::from_fn(|| network.poll_client(peer)).count();
    assert_eq!(received, DATAGRAMS_WAITING_MAX);

    let megabyte = vec![0; 1 << 20];
    for _ in 0..5 {
        network.server_command(TransportCommand::Send { peer, channel: CHANNEL_COMMAND, bytes: megabyte.clone() });
    }
    assert!(!network.is_connected(peer));
    assert!(matches!(network.poll_server(), Some(TransportEvent::Disconnected { .. })));
    assert_eq!(network.poll_server(), None);
}
