//! Reading, whatever signals come.

use std::io::{self, Read};

/// Some bytes, at least one unless the source has ended; a read that a signal interrupted is begun again.
pub fn some(source: &mut (impl Read + ?Sized), bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// As many bytes as there is room for, fewer only where the source ends.
pub fn most(source: &mut (impl Read + ?Sized), bytes: &mut [u8]) -> io::Result<usize> {
    most_at(source, &mut 0, bytes)
}

/// The same, and `position` moves on by what came, also by what came before a failure.
pub fn most_at(source: &mut (impl Read + ?Sized), position: &mut u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match some(source, &mut bytes[filled..])? {
            0 => break,
            count => {
                filled += count;
                *position += count as u64;
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every other read is interrupted, the others give one byte.
    struct Restless(bool, u8);
    impl Read for Restless {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0 = !self.0;
            if self.0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.1 == 5 {
                return Ok(0);
            }
            bytes[0] = self.1;
            self.1 += 1;
            Ok(1)
        }
    }

    #[test]
    fn interrupted_reads_go_on() {
        let mut bytes = [9; 4];
        assert_eq!((some(&mut Restless(false, 0), &mut bytes).expect("reads"), bytes[0]), (1, 0));
        let mut source = Restless(false, 0);
        assert_eq!((most(&mut source, &mut bytes).expect("reads"), bytes), (4, [0, 1, 2, 3]));
        assert_eq!(most(&mut source, &mut bytes).expect("reads"), 1);
    }
}
