use super::*;

#[test]
fn a_journal_survives_a_crash_in_every_operation() {
    let counts = journal_crashes(3, 1, |_| {}).unwrap();
    println!("{counts}");
    assert!(counts.operations > 80 && counts.unacknowledged_found > 0, "{counts}");
}

#[test]
fn a_journal_whose_syncs_do_nothing_is_caught() {
    journal_crashes(1, 1, |disk| disk.skip_syncs(true)).unwrap_err();
}

#[test]
fn a_store_survives_a_crash_in_every_operation() {
    let counts = store_crashes(1, 1, |_| {}).unwrap();
    println!("{counts}");
    assert!(counts.operations > 80 && counts.unacknowledged_found > 0, "{counts}");
}

#[test]
fn a_store_whose_syncs_do_nothing_is_caught() {
    store_crashes(1, 1, |disk| disk.skip_syncs(true)).unwrap_err();
}

#[test]
fn rot_in_a_journal_is_refused_or_harmless() {
    let counts = journal_damage(Ending::Marked).unwrap();
    println!("Marked: {counts}");
    assert!(counts.taken_for_torn == 0 && counts.refused["Corrupt"] > 1000, "{counts}");
    let counts = journal_damage(Ending::PowerLost).unwrap();
    println!("PowerLost: {counts}");
    assert!(counts.taken_for_torn > 0);
}

#[test]
fn rot_in_a_store_is_refused_or_harmless() {
    let counts = store_damage(31).unwrap();
    println!("{counts}");
    assert!(counts.refused["Corrupt"] > 500, "{counts}");
}
