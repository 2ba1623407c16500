//! Times as signed metadata writes them, `2026-11-21T22:30:00Z`, and as the rest of the launcher has them: seconds since 1970, UTC.

/// 9999-12-31T23:59:59Z: four digits of year are all that the form has.
const LAST: u64 = 253_402_300_799;

/// Days since 1970-01-01 of a date of the Gregorian calendar from that day on.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin with March have their leap day last; 1600-03-01 is day 0 of a cycle of 400 years.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let since_1600 = year - 1_600;
    let leap_days = since_1600 / 4 - since_1600 / 100 + since_1600 / 400;
    // 135,080 days lie between 1600-03-01 and 1970-01-01.
    since_1600 * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 135_080
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`, years 1970 to 9999; `None` for anything else.
pub fn parse(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = |(byte, &shape): (&u8, &u8)| if shape == b'd' { byte.is_ascii_digit() } else { *byte == shape };
    if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let sound = year >= 1970
        && (1..=12).contains(&month)
        && (1..=month_length(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    sound.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// The same the other way; later times than the form has become its last one.
pub fn format(seconds: u64) -> String {
    let seconds = seconds.min(LAST);
    let (day_number, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970 + day_number / 366;
    while days(year + 1, 1, 1) <= day_number {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days(year, month + 1, 1) <= day_number {
        month += 1;
    }
    let day = day_number - days(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        // From the calendar: the epoch, a leap day of a century's end, one that is none, the last second there is.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-21T22:30:00Z", 1_795_300_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", LAST),
        ] {
            assert_eq!((parse(text), format(seconds).as_str()), (Some(seconds), text));
        }
        for wrong in ["2100-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-1-01T00:00:00Z", "1969-12-31T23:59:59Z", ""]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse("2026-11-21T24:00:00Z").or(parse("2026-11-21T22:30:00+00:00")), None);
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_parsed(seconds in 0..=LAST) {
            prop_assert_eq!(parse(&format(seconds)), Some(seconds));
        }
    }
}
