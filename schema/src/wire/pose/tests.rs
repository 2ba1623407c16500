use super::limits::{ARM_MM, HEAD_AWAY_MAX_MM};
use super::motion::{Activity, Motion};
use super::*;
use crate::codec::DecodeError;
use crate::id::EntityId;
use proptest::prelude::*;
use std::time::Duration;

fn at_slot(slot: u32) -> Duration {
    Duration::from_secs(u64::from(slot)) / SLOTS_PER_S
}

fn poses(seed: u64, activity: Option<Activity>, count: u32) -> Vec<BodyPose> {
    let motion = Motion::new(seed, activity);
    (0..count).map(|slot| motion.pose(f64::from(slot) / f64::from(SLOTS_PER_S)).unwrap()).collect()
}

fn encoded(poses: &[BodyPose]) -> Vec<Vec<u8>> {
    let mut encoder = PoseEncoder::default();
    poses.iter().enumerate().map(|(slot, pose)| encoder.encode(slot as u16, pose).unwrap()).collect()
}

/// Mean and 99th percentile of the lengths.
fn sizes(packets: impl Iterator<Item = usize>) -> (f64, usize) {
    let mut lengths: Vec<usize> = packets.collect();
    lengths.sort_unstable();
    (lengths.iter().sum::<usize>() as f64 / lengths.len() as f64, lengths[lengths.len() * 99 / 100])
}

#[test]
fn a_pose_takes_twelve_bytes_in_the_mean() {
    let mut over = false;
    let minutes_of = |activity| (1..=4).flat_map(move |seed| encoded(&poses(seed, activity, 3_600)));
    for (activity, mean_max) in
        [(Activity::Idle, 9.0), (Activity::Talk, 11.5), (Activity::Work, 14.0), (Activity::Swing, 17.0)]
    {
        let (mean, p99) = sizes(minutes_of(Some(activity)).map(|packet| packet.len()));
        let motion = Motion::new(1, Some(activity));
        let hand = |slot: u32| motion.at(f64::from(slot) / 60.0)[1].0;
        let apart = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let speeds: Vec<f64> = (0..3_600).map(|slot| apart(hand(slot), hand(slot + 1)) * 60.0).collect();
        let (mean_speed, top_speed) = (speeds.iter().sum::<f64>() / 3_600.0, speeds.into_iter().fold(0.0, f64::max));
        println!("{activity:?}: {mean:.2} B mean, {p99} B p99; a hand {mean_speed:.2} m/s, at most {top_speed:.1}");
        over |= mean > mean_max;
    }
    let all: Vec<Vec<u8>> = minutes_of(None).collect();
    for layer in Layer::ALL {
        let of_layer = || all.iter().filter(|packet| Layer::of(packet) == Some(layer));
        let (mean, p99) = sizes(of_layer().map(Vec::len));
        println!("  {layer:?}: {} of {}, {mean:.2} B mean, {p99} B p99", of_layer().count(), all.len());
    }
    let (mean, p99) = sizes(all.iter().map(Vec::len));
    println!("all activities in turn: {mean:.2} B mean, {p99} B p99");
    assert!(!over, "an activity takes too many bytes");
    assert!(mean <= 12.0, "{mean} bytes");
    assert!(p99 <= 31, "{p99} bytes");
}

#[test]
fn what_comes_out_is_what_was_put_in_to_a_millimetre_and_a_quarter_degree() {
    let (mut worst_mm, mut worst_degrees, mut count) = (0.0f64, 0.0f64, 0);
    for seed in 0..4 {
        let motion = Motion::new(seed, None);
        let (mut encoder, mut decoder) = (PoseEncoder::default(), PoseDecoder::default());
        for slot in 0..3_600u32 {
            let seconds = f64::from(slot) / f64::from(SLOTS_PER_S);
            let pose = motion.pose(seconds).unwrap();
            assert_eq!(check_reach(&pose), Ok(()));
            let bytes = encoder.encode(slot as u16, &pose).unwrap();
            let received = decoder.decode(at_slot(slot), &bytes).unwrap();
            assert_eq!((received.slot, received.pose), (slot as u16, pose));
            for ((place, turn), (_, tracked)) in motion.at(seconds).into_iter().zip(received.pose.parts()) {
                let apart = place.iter().zip(tracked.position).map(|(a, b)| (a * 1_000.0 - f64::from(b)).powi(2));
                worst_mm = worst_mm.max(apart.sum::<f64>().sqrt());
                worst_degrees = worst_degrees.max(tracked.rotation.angle_to(turn));
                count += 1;
            }
        }
    }
    println!("{count} tracked parts: at most {worst_mm:.3} mm and {worst_degrees:.3}° off");
    assert!(worst_mm <= 1.0 && worst_mm > 0.5, "{worst_mm} mm");
    assert!(worst_degrees <= 0.25 && worst_degrees > 0.05, "{worst_degrees}°");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_rotation_is_right_to_a_quarter_degree(q in prop::array::uniform4(-1.0f64..1.0)) {
        prop_assume!(q.iter().map(|part| part * part).sum::<f64>() > 0.01);
        let rotation = Rotation::from_real(q).unwrap();
        prop_assert!(rotation.angle_to(q) <= 0.25, "{}° off", rotation.angle_to(q));
        let parts = rotation.parts().map(i32::from);
        prop_assert_eq!(Rotation::from_parts(rotation.largest(), parts), Ok(rotation));
    }

    #[test]
    fn random_bytes_give_a_pose_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..40) {
        // A decoder in the middle of a stream, so that references are found.
        let packets = encoded(&poses(1, None, 40));
        let mut decoder = PoseDecoder::default();
        for (slot, packet) in packets.iter().enumerate() {
            decoder.decode(at_slot(slot as u32), packet).unwrap();
        }
        let _ = decoder.decode(at_slot(41), &bytes);
        let _ = (client_pose(&bytes), decode_poses(&bytes), decode_poses(&[&[SERVER_POSES][..], &bytes].concat()));
        let mut damaged = packets[cut].clone();
        for (byte, flip) in damaged.iter_mut().zip(&bytes) {
            *byte ^= flip & bytes.len() as u8;
        }
        if let Ok(received) = decoder.decode(at_slot(42), &damaged) {
            let _ = (check_reach(&received.pose), check_speed(&received.pose, &received.pose, 1));
        }
    }

    #[test]
    fn bodies_with_any_parts_come_back(
        mask in 0u16..1 << (PARTS - 1),
        places in prop::collection::vec(prop::array::uniform3(-1_900i16..1_900), 2 * PARTS),
        turns in prop::collection::vec(prop::array::uniform4(-1.0f64..1.0), 2 * PARTS),
    ) {
        let tracked = |number: usize| Tracked {
            // Within twelve bits of the head.
            position: places[number].map(|axis| axis / 2),
            rotation: Rotation::from_real(turns[number]).unwrap_or_default(),
        };
        let body = |offset: usize| {
            let mut body = BodyPose::new(tracked(offset));
            for part in &Part::ALL[1..] {
                if mask & 1 << (*part as u16 - 1) != 0 {
                    body = body.with(*part, tracked(offset + *part as usize));
                }
            }
            body
        };
        let (mut encoder, mut decoder) = (PoseEncoder::default(), PoseDecoder::default());
        for (slot, pose) in [body(0), body(PARTS), body(0), body(PARTS)].iter().enumerate() {
            let bytes = encoder.encode(slot as u16, pose).unwrap();
            prop_assert!(bytes.len() <= POSE_BYTES_MAX, "{} bytes", bytes.len());
            prop_assert_eq!(decoder.decode(Duration::ZERO, &bytes).unwrap().pose, *pose);
        }
    }
}

#[test]
fn after_losses_and_reordering_everything_is_right_or_refused_and_soon_right_again() {
    let poses = poses(7, None, 6_000);
    let packets = encoded(&poses);
    // Lost of a hundred; whether every seventh is overtaken by the next two; what may be unreadable, and in a row.
    for (lost_of_100, overtaken, refused_max, row_max) in
        [(0u64, true, 0.30, 6), (2, false, 0.10, 24), (10, false, 0.40, 48), (20, true, 0.75, 120)]
    {
        let mut decoder = PoseDecoder::default();
        let mut chance = 12_345u64;
        let mut arriving: Vec<(u32, usize)> = Vec::new();
        for slot in 0..packets.len() {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (chance >> 33) % 100 >= lost_of_100 {
                arriving.push((slot as u32 + if overtaken && slot % 7 == 0 { 2 } else { 0 }, slot));
            }
        }
        arriving.sort_by_key(|(at, slot)| (*at, std::cmp::Reverse(*slot)));
        let (mut refused, mut row, mut worst_row) = (0, 0, 0);
        for (at, slot) in &arriving {
            match decoder.decode(at_slot(*at), &packets[*slot]) {
                Ok(received) => {
                    assert_eq!((received.slot, received.pose), (*slot as u16, poses[*slot]));
                    row = 0;
                }
                Err(PoseError::MissingReference { .. }) => {
                    refused += 1;
                    row += 1;
                    worst_row = worst_row.max(row);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let part = f64::from(refused) / arriving.len() as f64;
        println!("{lost_of_100} % lost, overtaken {overtaken}: {:.1} % unreadable, {worst_row} in a row", part * 100.0);
        assert!(part < refused_max && worst_row < row_max, "{part} refused, {worst_row} in a row");
    }
}

#[test]
fn the_lower_layers_alone_can_all_be_read() {
    let poses = poses(3, None, 960);
    let packets = encoded(&poses);
    for (highest, count) in [(Layer::Key, 40), (Layer::Anchor, 240), (Layer::Half, 480), (Layer::Full, 960)] {
        let mut decoder = PoseDecoder::default();
        let wanted: Vec<usize> = (0..960).filter(|slot| Layer::of(&packets[*slot]) <= Some(highest)).collect();
        assert_eq!(wanted.len(), count, "{highest:?}");
        for slot in wanted {
            assert_eq!(decoder.decode(at_slot(slot as u32), &packets[slot]).unwrap().pose, poses[slot]);
        }
    }
}

#[test]
fn a_slow_sender_skips_slots_and_slots_wrap() {
    let poses = poses(5, None, 2_000);
    let (mut encoder, mut decoder) = (PoseEncoder::default(), PoseDecoder::default());
    for (number, pose) in poses.iter().enumerate() {
        // 45 poses a second, then 7, then 3; slot numbers pass 65,535.
        let slot = match number as u32 {
            number @ ..1_000 => 65_000 + number * 4 / 3,
            number @ ..1_800 => 66_332 + (number - 999) * 9,
            number => 73_541 + (number - 1_800) * 20,
        };
        let bytes = encoder.encode(slot as u16, pose).unwrap();
        let received = decoder.decode(at_slot(slot), &bytes).unwrap();
        assert_eq!((received.slot, received.pose), (slot as u16, *pose));
    }
}

#[test]
fn a_receiver_that_heard_nothing_for_long_waits_for_a_key_pose() {
    let poses = poses(5, None, 400);
    let packets = encoded(&poses);
    let mut decoder = PoseDecoder::default();
    for slot in 0..20 {
        decoder.decode(at_slot(slot), &packets[slot as usize]).unwrap();
    }
    // Slot 82 has the same short number as slot 18, and its reference the same as one that is remembered.
    let late = decoder.decode(at_slot(82), &packets[82]);
    assert!(matches!(late, Err(PoseError::MissingReference { distance: 2, .. })), "{late:?}");
    let key = (82..110).find(|slot| Layer::of(&packets[*slot]) == Some(Layer::Key)).unwrap();
    assert_eq!(decoder.decode(at_slot(key as u32), &packets[key]).unwrap().slot, key as u16);
    assert_eq!(decoder.decode(at_slot(key as u32 + 1), &packets[key + 1]).unwrap().pose, poses[key + 1]);
}

#[test]
fn another_set_of_trackers_or_a_restart_gives_a_key_pose() {
    let head = BodyPose::new(Tracked::default());
    let mut encoder = PoseEncoder::default();
    let layer = |bytes: Vec<u8>| Layer::of(&bytes).unwrap();
    assert_eq!(layer(encoder.encode(10, &head).unwrap()), Layer::Key);
    assert_eq!(layer(encoder.encode(11, &head).unwrap()), Layer::Full);
    let with_hips = head.with(Part::Hips, Tracked::default());
    assert_eq!(layer(encoder.encode(12, &with_hips).unwrap()), Layer::Key);
    encoder.restart();
    assert_eq!(layer(encoder.encode(13, &with_hips).unwrap()), Layer::Key);
    let again = encoder.encode(13, &with_hips);
    assert_eq!(again, Err(PoseError::SlotNotNew { slot: 13, newest: 13 }));
    let far = BodyPose::new(Tracked { position: [0, 4_096, 0], ..Tracked::default() });
    assert_eq!(encoder.encode(14, &far), Err(PoseError::TooFar { millimetres: 4_096 }));
}

#[test]
fn what_is_no_pose_is_refused_by_name() {
    let malformed = |bytes: &[u8]| match PoseDecoder::default().decode(Duration::ZERO, bytes) {
        Err(PoseError::Malformed(error)) => error,
        other => panic!("{other:?}"),
    };
    let body = BodyPose::new(Tracked::default()).with(Part::LeftHand, Tracked::default());
    let key = PoseEncoder::default().encode(1, &body.with(Part::RightHand, Tracked::default())).unwrap();
    assert_eq!(malformed(&[]), DecodeError::Truncated { needed: 1 });
    assert_eq!(malformed(&key[..key.len() - 1]), DecodeError::Truncated { needed: 1 });
    assert_eq!(malformed(&[&key[..], &[0]].concat()), DecodeError::TrailingBytes(1));
    assert!(matches!(malformed(&[0; 161]), DecodeError::TooLarge { found: 161, .. }));
    // A key pose of zeros: all parts of a rotation are at their least.
    assert_eq!(malformed(&[&[7][..], &[0; 29]].concat()), DecodeError::Invalid("rotation"));
    let mut filled = key.clone();
    *filled.last_mut().unwrap() |= 0x80;
    assert_eq!(malformed(&filled), DecodeError::Invalid("filling of the last byte"));
    // A change that refers to itself: an unusual distance, of nought.
    assert_eq!(malformed(&[0x80, 0, 0, 0]), DecodeError::Invalid("reference"));
}

#[test]
fn what_no_body_can_do_is_refused_by_name() {
    let place = |position| Tracked { position, ..Tracked::default() };
    let standing = BodyPose::new(place([0, 1_700, 0])).with(Part::LeftHand, place([-300, 1_100, 0]));
    assert_eq!(check_reach(&standing), Ok(()));
    let away = check_reach(&BodyPose::new(place([1_500, 1_700, 1_500])));
    assert_eq!(away, Err(PoseRefusal::HeadAway { found_mm: 2_121, limit_mm: HEAD_AWAY_MAX_MM }));
    assert_eq!(away.unwrap_err().to_string(), "the head is 2121 mm from the root, at most 2000 are allowed");
    let buried = check_reach(&BodyPose::new(place([0, -501, 0])));
    assert_eq!(buried, Err(PoseRefusal::HeadHeight { found_mm: -501 }));
    let long_arm = check_reach(&standing.with(Part::RightHand, place([0, 1_700, 1_601])));
    assert_eq!(long_arm, Err(PoseRefusal::OutOfReach { part: Part::RightHand, found_mm: 1_601, limit_mm: ARM_MM }));
    let moved = standing.with(Part::LeftHand, place([-300, 1_100, 667]));
    assert_eq!(
        check_speed(&standing, &moved, 1),
        Err(PoseRefusal::TooFast { part: Part::LeftHand, found_mm: 667, limit_mm: 666 })
    );
    assert_eq!(check_speed(&standing, &moved, 2), Ok(()));
    assert_eq!(Tracked::from_real([f64::NAN, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]), None);
    assert_eq!(Tracked::from_real([33.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]), None);
    assert_eq!(Tracked::from_real([0.0; 3], [0.0; 4]), None);
    assert_eq!(Tracked::from_real([0.0; 3], [f64::INFINITY, 0.0, 0.0, 1.0]), None);
}

#[test]
fn datagrams_come_back_and_other_kinds_are_left_alone() {
    assert_eq!(client_pose(&write_client_pose(&[1, 2])), Some(&[1, 2][..]));
    assert_eq!((client_pose(&[0, 1, 2]), client_pose(&[])), (None, None));
    let mut out = vec![SERVER_POSES];
    write_pose_entry(&mut out, EntityId(1 << 40), &[1, 2, 3]);
    write_pose_entry(&mut out, EntityId(7), &[]);
    assert_eq!(decode_poses(&out), Ok(vec![(EntityId(1 << 40), &[1, 2, 3][..]), (EntityId(7), &[][..])]));
    assert_eq!(decode_poses(&out[..out.len() - 1]), Err(DecodeError::Truncated { needed: 1 }));
    assert_eq!(decode_poses(&[1]), Err(DecodeError::Invalid("datagram kind")));
    let long = decode_poses(&[SERVER_POSES, 7, 161]);
    assert_eq!(long, Err(DecodeError::TooLarge { what: "pose length", found: 161, limit: 160 }));
}
