//! Bytes as lower-case hexadecimal digits, as names of files, keys and signatures are written.

/// Two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The `N` bytes that [`hex`] writes so; `None` of anything else, upper case included: one name, one spelling.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_spellings_are_none() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(unhex::<32>(text).is_some());
        for bad in [&text[1..], &text.to_uppercase(), &text.replace('b', "g"), &format!("{text}0"), ""] {
            assert_eq!(unhex::<32>(bad), None, "{bad}");
        }
        assert_eq!(unhex::<3>("+0ff10"), None);
        assert_eq!(unhex::<2>("é00"), None);
    }

    proptest! {
        #[test]
        fn bytes_come_back_from_their_text(id: [u8; 32], nonce: [u8; 12]) {
            prop_assert_eq!(unhex(&hex(&id)), Some(id));
            prop_assert_eq!(unhex(&hex(&nonce)), Some(nonce));
        }
    }
}
