use super::*;

/// What clients in other languages test against: (seed, x, z, height), millimetres.
const GOLDEN: [(u64, i32, i32, i32); 8] = include!("golden.in");

#[test]
fn heights_are_those_that_clients_know() {
    for (seed, x, z, height) in GOLDEN {
        assert_eq!(Terrain::new(seed).height(x, z), height, "seed {seed} at ({x}, {z})");
    }
}

#[test]
fn heights_stay_in_their_range_and_neighbours_are_near() {
    let terrain = Terrain::new(99);
    let (mut lowest, mut highest) = (i32::MAX, i32::MIN);
    for i in 0..20_000 {
        let (x, z) = (i * 137 - 1_000_000, i * 211 - 2_000_000);
        let height = terrain.height(x, z);
        lowest = lowest.min(height);
        highest = highest.max(height);
        let step = (terrain.height(x + 100, z) - height).abs();
        assert!(step < 260, "a step of {step} mm in 100 mm at ({x}, {z})");
    }
    assert!((-18_000..0).contains(&lowest), "no sea: lowest is {lowest}");
    assert!((15_000..36_900).contains(&highest), "no hills: highest is {highest}");
}

#[test]
fn steep_ground_cannot_be_climbed_but_walked_down() {
    let terrain = Terrain::new(99);
    let steep = (0..200_000)
        .map(|i| (i * 53, i * 91))
        .find(|(x, z)| terrain.height(x + 1_000, *z) - terrain.height(*x, *z) > 400);
    let (x, z) = steep.expect("the land has a steep place");
    assert!(!terrain.can_climb((x, z), (x + 1_000, z), 300));
    assert!(terrain.can_climb((x + 1_000, z), (x, z), 300));
    assert!(terrain.can_climb((x, z), (x + 1_000, z), 10_000));
}
