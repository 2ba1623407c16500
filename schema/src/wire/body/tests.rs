use super::*;
use crate::wire::pose::ROTATION_ONE;
use proptest::prelude::*;

fn quaternion() -> impl Strategy<Value = [f64; 4]> {
    let part = || -1.0..1.0f64;
    [part(), part(), part(), part()]
        .prop_filter("no direction", |q| q.iter().map(|part| part * part).sum::<f64>() > 0.01)
}

fn body() -> impl Strategy<Value = Body> {
    let coordinate = || -(1 << 29)..(1 << 29);
    (coordinate(), -(1 << 20)..(1 << 20), coordinate(), quaternion(), any::<bool>()).prop_map(
        |(east, up, south, turn, at_rest)| Body {
            place: [east, up, south],
            rotation: Rotation::from_real(turn).unwrap(),
            at_rest,
        },
    )
}

/// A body, and one that it may be a little later: somewhat further, somewhat turned.
fn two() -> impl Strategy<Value = (Body, Body)> {
    let step = || prop_oneof![Just(0), -3..3i32, -40..40, -3_000..3_000];
    let turn = || prop_oneof![Just(0.0), -0.02..0.02f64, -0.7..0.7];
    (body(), [step(), step(), step()], [turn(), turn(), turn(), turn()], any::<bool>()).prop_map(
        |(base, by, turn, at_rest)| {
            let place = [0, 1, 2].map(|axis| {
                let most = (1 << (PLACE_BITS[axis] - 1)) - 1;
                (base.place[axis] + by[axis]).clamp(-most, most)
            });
            let real = base.rotation.to_real();
            let rotation = Rotation::from_real([0, 1, 2, 3].map(|part| real[part] + turn[part])).unwrap_or_default();
            (base, Body { place, rotation, at_rest })
        },
    )
}

fn baseline() -> impl Strategy<Value = (Baseline, Body)> {
    (two(), two(), proptest::option::of(1u32..=127)).prop_map(|((before, state), (_, new), ticks)| {
        (Baseline { state, before: ticks.map(|ticks| Before { state: before, ticks }) }, new)
    })
}

proptest! {
    #[test]
    fn a_packet_says_what_was_put_in(
        entities in proptest::collection::btree_map(any::<u16>(), (baseline(), two(), any::<bool>(), 0u32..=127), 0..60),
        gap in 0usize..70_000,
        number: u16,
        tick: u16,
    ) {
        let head = BodyHead { number, tick };
        let mut writer = BodyWriter::new(head, gap, 0);
        let mut expected = Vec::new();
        for (slot, ((base, other), (near_base, near), is_near, age)) in &entities {
            let (base, new) = if *is_near { (Baseline { state: *near_base, ..*base }, *near) } else { (*base, *other) };
            match age {
                0 => writer.push(*slot, 0, new.absolute()),
                age => writer.push(*slot, *age, new.since(&base, *age)),
            }
            expected.push((*slot, *age, base, new));
        }
        let (found, updates) = decode_bodies(&writer.finish()).unwrap();
        prop_assert_eq!(found, head);
        prop_assert_eq!(updates.len(), expected.len());
        for ((slot, update), (wanted, wanted_age, base, new)) in updates.into_iter().zip(expected) {
            let (age, body) = match update {
                Update::Absolute(body) => (0, body),
                Update::Since { age, change } => (age, change.from(&base, age).unwrap()),
            };
            prop_assert_eq!((slot, age, body), (wanted, wanted_age, new));
        }
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        (base, _) in baseline(),
    ) {
        let _ = decode_bodies(&bytes);
        // A count of one and ages that are read let random bits come deeper.
        for bytes in [[&[BODY_KIND][..], &bytes].concat(), [&[BODY_KIND, 0, 0, 0, 0, 1, 0][..], &bytes].concat()] {
            let Ok((_, updates)) = decode_bodies(&bytes) else { continue };
            for (_, update) in updates {
                if let Update::Since { age, change } = update
                    && let Ok(body) = change.from(&base, age)
                {
                    // What is understood can be told again.
                    prop_assert!(!body.absolute().is_empty() && !body.since(&base, age).is_empty());
                }
            }
        }
    }

    #[test]
    fn any_change_to_any_base_is_a_body_or_an_error(
        (base, _) in baseline(), by in [-2_048..2_048i32, -2_048..2_048, -2_048..2_048], turn in [-128..128i32, -128..128, -128..128],
        age in 1u32..=127,
    ) {
        let change = Change::Moved { at_rest: false, place: PlaceChange::By(by), rotation: RotationChange::By(turn) };
        if let Ok(body) = change.from(&base, age) {
            prop_assert!(body.absolute().len() == 117);
        }
    }

    #[test]
    fn quantised_states_are_nearly_right(x: i32, y in -4_000_000..4_000_000, z: i32, turn in quaternion(), at_rest: bool) {
        let position = Position { x: x / 2, y, z: z / 2 };
        let body = Body::of(position, Rotation::from_real(turn).unwrap(), at_rest);
        let back = body.position();
        for (a, b) in [(position.x, back.x), (y, back.y), (position.z, back.z)] {
            prop_assert!((a - b).abs() <= QUANTUM_MM / 2, "{} and {}", a, b);
        }
        prop_assert!(body.rotation().angle_to(turn) <= 0.25);
        prop_assert_eq!(body.at_rest(), at_rest);
    }

    #[test]
    fn what_goes_on_is_expected_where_it_comes(
        axis in [-1.0..1.0f64, -1.0..1.0, -1.0..1.0], degrees in 0.0..12.0f64, speed in [-300..300i32, -300..300, -300..300],
        age in 1u32..=8, ticks in 1u32..=8,
    ) {
        let length = axis.iter().map(|part| part * part).sum::<f64>().sqrt().max(1e-3);
        let at = |tick: u32| {
            let half = degrees.to_radians() / 2.0 * f64::from(tick);
            let [x, y, z] = axis.map(|part| part / length * half.sin());
            ([x, y, z, half.cos()], speed.map(|speed| speed * tick as i32))
        };
        let body = |tick: u32| {
            let (turn, [x, y, z]) = at(tick);
            Body::of(Position { x, y, z }, Rotation::from_real(turn).unwrap_or_default(), false)
        };
        let base = Baseline { state: body(ticks), before: Some(Before { state: body(0), ticks }) };
        let (expected, (turn, place)) = (base.expected(age), at(ticks + age));
        // Rounding of the two states grows with the time between them and after.
        let factor = f64::from(age) / f64::from(ticks);
        for (quanta, mm) in expected.place().into_iter().zip(place) {
            let off = quanta * QUANTUM_MM - mm;
            prop_assert!(f64::from(off.abs()) <= 4.0 * factor + 6.0, "{} mm", off);
        }
        let own = expected.turn();
        let length = |q: [f64; 4]| q.iter().map(|part| part * part).sum::<f64>().sqrt();
        let cosine: f64 = own.iter().zip(turn).map(|(a, b)| a * b).sum::<f64>() / length(own) / length(turn);
        let off = cosine.abs().min(1.0).acos().to_degrees() * 2.0;
        // The series is cut off behind its second term: large angles far ahead are wrong.
        let angle = degrees * f64::from(age.max(ticks));
        if angle < 40.0 {
            prop_assert!(off <= 1.0 + factor + angle * 0.05, "{} degrees", off);
        }
    }
}

#[test]
fn a_turn_goes_on_exactly_over_equal_times() {
    // Nine tenths of the way round in four steps: what a straight continuation of the parts would miss by far.
    let at = |step: f64| Rotation::from_real([0.0, (0.7 * step).sin(), 0.0, (0.7 * step).cos()]).unwrap();
    let body = |step| Body { rotation: at(step), ..Body::default() };
    let base = Baseline { state: body(1.0), before: Some(Before { state: body(0.0), ticks: 3 }) };
    let turn = base.expected(3).turn();
    assert!(at(2.0).angle_to(turn) < 0.3, "{}", at(2.0).angle_to(turn));
}

#[test]
fn a_body_costs_few_bits() {
    let before = Body::of(Position { x: 1_000, y: 500, z: -500 }, Rotation::default(), false);
    let moved = |by: i32| Body { place: [before.place[0] + by, before.place[1], before.place[2]], ..before };
    let base = Baseline { state: moved(10), before: Some(Before { state: before, ticks: 3 }) };
    let lengths = [
        base.state.since(&base, 3).len(),
        Body { at_rest: true, ..moved(20) }.since(&base, 3).len(),
        moved(20).since(&base, 3).len(),
        moved(21).since(&base, 3).len(),
        moved(24).since(&base, 3).len(),
        moved(200).since(&base, 3).len(),
        moved(2_000).since(&base, 3).len(),
        moved(20_000).since(&base, 3).len(),
        before.absolute().len(),
    ];
    assert_eq!(lengths, [2, 10, 9, 11, 17, 29, 35, 47, 117]);
    // Over the longest change nothing is lost either: it must fit a `Packed`.
    let far =
        Body { at_rest: true, place: [1 << 28, 0, 0], rotation: Rotation::from_real([1.0, 0.3, 0.2, 0.1]).unwrap() };
    assert_eq!(far.since(&base, 3).len(), 2 + 2 + 81 + 2 + 35);
}

#[test]
fn numbers_come_back_and_too_many_ones_are_refused() {
    for low in [FINE, COARSE] {
        for number in (-9_000..9_000).chain([40_000, -40_000, i32::MAX, i32::MIN]) {
            let bits = number_bits(number, low);
            if bits >= 1 << 10 {
                assert!(number.unsigned_abs() > 2_000, "{number}");
                continue;
            }
            let mut packed = Packed::default();
            pack_number(&mut packed, number, low);
            assert_eq!(packed.len(), bits, "{number}");
            let mut writer = BitWriter::default();
            writer.packed(packed);
            assert_eq!(read_number(&mut BitReader::new(&writer.finish()), low), Ok(number));
        }
    }
    let too_many = read_number(&mut BitReader::new(&[0xff; 3]), FINE);
    assert_eq!(too_many, Err(DecodeError::Invalid("number")));
}

#[test]
fn a_body_at_rest_is_expected_to_stay() {
    let before = Body::default();
    let state = Body { place: [9, 9, 9], at_rest: true, ..before };
    let told =
        |state, ticks, age| Baseline { state, before: Some(Before { state: before, ticks }) }.expected(age).place();
    assert_eq!(told(state, 3, 3), [9, 9, 9]);
    let moving = Body { at_rest: false, ..state };
    assert_eq!(told(moving, 3, 3), [18, 18, 18]);
    assert_eq!(told(moving, 3, 1), [12, 12, 12]);
    assert_eq!(told(moving, EXPECT_TICKS_MAX + 1, 3), [9, 9, 9]);
    assert_eq!(told(moving, 3, EXPECT_TICKS_MAX + 1), [9, 9, 9]);
    assert_eq!(Baseline::whole(moving).expected(3).place(), [9, 9, 9]);
}

#[test]
fn what_is_not_a_packet_is_refused_by_name() {
    let mut writer = BodyWriter::new(BodyHead { number: 1, tick: 2 }, 1, 0);
    writer.push(65_535, 0, Body::default().absolute());
    let bytes = writer.finish();
    assert!(decode_bodies(&bytes).is_ok());
    assert_eq!(decode_bodies(&[1]), Err(DecodeError::Invalid("datagram kind")));
    assert!(matches!(decode_bodies(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated { .. })));
    assert_eq!(decode_bodies(&[&bytes[..], &[0]].concat()), Err(DecodeError::TrailingBytes(1)));
    let mut wrong = Packed::default();
    wrong.flag(false);
    pack_place(&mut wrong, [0; 3]);
    wrong.write(3, 2);
    for _ in 0..3 {
        wrong.signed(1_000, PART_BITS);
    }
    let mut writer = BodyWriter::new(BodyHead { number: 1, tick: 2 }, 1, 0);
    writer.push(0, 0, wrong);
    assert_eq!(decode_bodies(&writer.finish()), Err(DecodeError::Invalid("rotation")));
    // A change that leads out of the world, or to a rotation that is none.
    let edge = Baseline::whole(Body { place: [(1 << 29) - 1, 0, 0], ..Body::default() });
    let moved =
        |by, turn| Change::Moved { at_rest: false, place: PlaceChange::By(by), rotation: RotationChange::By(turn) };
    assert_eq!(moved([1, 0, 0], [0; 3]).from(&edge, 1), Err(DecodeError::Invalid("place")));
    assert_eq!(moved([0; 3], [ROTATION_ONE; 3]).from(&edge, 1), Err(DecodeError::Invalid("rotation")));
}
