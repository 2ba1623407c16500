//! Getting frames (stored chunks, runs of deltas) in few requests, on several connections, and handing out each as soon as it is whole.

use super::progress::stopped;
use crate::error::{Exit, TaskError};
use crate::fetch::{Fetch, FetchError};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes between two frames that are rather fetched than a second request made: at 40 ms a request and 50 Mbit/s they cost the same.
const GAP_MAX: u64 = 256 << 10;
/// Most bytes of a request: what a broken connection or a slow one of several may hold up.
const REQUEST_SIZE: u64 = 16 << 20;

/// Bytes that belong together, somewhere in a file of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub offset: u64,
    pub size: u32,
    /// Which chunk or run, for who gets it.
    pub number: u32,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub path: String,
    /// Rising, none over another.
    pub frames: Vec<Frame>,
}

impl Request {
    pub fn begin(&self) -> u64 {
        self.frames[0].offset
    }

    pub fn end(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.offset + u64::from(frame.size))
    }
}

/// Puts frames of one file, in rising order, into as few requests as make sense.
pub(crate) fn coalesce(path: &str, frames: impl IntoIterator<Item = Frame>, requests: &mut Vec<Request>) {
    let mut open: Option<Request> = None;
    for frame in frames {
        match &mut open {
            Some(request)
                if frame.offset - request.end() <= GAP_MAX
                    && frame.offset + u64::from(frame.size) - request.begin() <= REQUEST_SIZE + GAP_MAX =>
            {
                request.frames.push(frame);
            }
            _ => requests.extend(open.replace(Request { path: path.to_owned(), frames: vec![frame] })),
        }
    }
    requests.extend(open);
}

/// What all requests take: their number and bytes.
pub(crate) fn cost(requests: &[Request]) -> (u64, u64) {
    (requests.len() as u64, requests.iter().map(|request| request.end() - request.begin()).sum())
}

/// Makes the requests; `each` gets every frame once, on several threads. Ends with the first failure.
pub(crate) fn run(
    fetch: &dyn Fetch,
    requests: &[Request],
    each: &(dyn Fn(&Request, &Frame, &[u8]) -> io::Result<()> + Sync),
) -> Result<(), TaskError> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<FetchError>> = Mutex::new(None);
    let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..fetch.connections().clamp(1, requests.len().max(1)) {
            scope.spawn(|| {
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed().is_some() {
                        return;
                    }
                    let result = one(fetch, request, each, &|| failed().is_some());
                    if let Err(error) = result {
                        failed().get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some(FetchError::Sink { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {
            Err(TaskError::new(Exit::Stopped, "stopped on request; going on later fetches nothing twice"))
        }
        Some(error) => Err(error.into_task()),
    }
}

fn one(
    fetch: &dyn Fetch,
    request: &Request,
    each: &(dyn Fn(&Request, &Frame, &[u8]) -> io::Result<()> + Sync),
    is_over: &dyn Fn() -> bool,
) -> Result<(), FetchError> {
    let mut frames = request.frames.iter();
    let mut current = frames.next();
    let mut position = request.begin();
    let mut held: Vec<u8> = vec![];
    fetch.range(&request.path, request.begin()..request.end(), &mut |mut bytes| {
        if is_over() {
            return Err(stopped());
        }
        while let Some(frame) = current {
            // What lies between frames is passed over.
            let gap = usize::try_from(frame.offset.saturating_sub(position)).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[gap..];
            position += gap as u64;
            if bytes.is_empty() {
                break;
            }
            let missing = (frame.size as usize - held.len()).min(bytes.len());
            if held.is_empty() && missing == frame.size as usize {
                each(request, frame, &bytes[..missing])?;
            } else {
                held.extend_from_slice(&bytes[..missing]);
                if held.len() < frame.size as usize {
                    position += missing as u64;
                    break;
                }
                each(request, frame, &held)?;
                held.clear();
            }
            bytes = &bytes[missing..];
            position += missing as u64;
            current = frames.next();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    /// A file whose byte at n is n, given out in pieces of a size.
    struct Counting(usize);
    impl Fetch for Counting {
        fn whole(&self, _: &str, _: u64) -> Result<Vec<u8>, FetchError> {
            unreachable!("only ranges are asked for")
        }
        fn range(
            &self,
            path: &str,
            range: Range<u64>,
            into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        ) -> Result<(), FetchError> {
            let bytes: Vec<u8> = range.map(|n| n as u8).collect();
            bytes.chunks(self.0).try_for_each(into).map_err(|source| FetchError::Sink { path: path.into(), source })
        }
    }

    proptest! {
        /// Every frame comes once with its own bytes, whatever pieces came; requests keep to their size and to no more gap than allowed.
        #[test]
        fn frames_come_whole(sizes in prop::collection::vec((0u64..600_000, 1u32..300_000), 1..40), piece in 1_000usize..200_000) {
            let mut offset = 0;
            let frames: Vec<Frame> = sizes.iter().enumerate().map(|(number, &(gap, size))| {
                let frame = Frame { offset: offset + gap, size, number: number as u32 };
                offset = frame.offset + u64::from(size);
                frame
            }).collect();
            let mut requests = vec![];
            coalesce("f", frames.iter().copied(), &mut requests);
            prop_assert_eq!(requests.iter().flat_map(|request| &request.frames).copied().collect::<Vec<_>>(), frames.clone());
            for request in &requests {
                prop_assert!(request.end() - request.begin() <= REQUEST_SIZE + GAP_MAX);
                for pair in request.frames.windows(2) {
                    prop_assert!(pair[1].offset - pair[0].offset - u64::from(pair[0].size) <= GAP_MAX);
                }
            }
            let seen = Mutex::new(vec![]);
            run(&Counting(piece), &requests, &|_, frame, bytes| {
                let sound = bytes.len() == frame.size as usize
                    && bytes.iter().enumerate().all(|(at, &byte)| byte == (frame.offset + at as u64) as u8);
                seen.lock().expect("sound").push((frame.number, sound));
                Ok(())
            }).expect("comes");
            let mut seen = seen.into_inner().expect("sound");
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..frames.len() as u32).map(|number| (number, true)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_full_disk_ends_all_with_its_own_exit_code() {
        let frames = (0..100).map(|number| Frame { offset: u64::from(number) * 1_000_000, size: 10, number });
        let mut requests = vec![];
        coalesce("f", frames, &mut requests);
        assert_eq!(requests.len(), 100);
        let full = |_: &Request, _: &Frame, _: &[u8]| Err(io::ErrorKind::StorageFull.into());
        assert_eq!(run(&Counting(4_096), &requests, &full).expect_err("full").exit, Exit::NoSpace);
        let stop = |_: &Request, _: &Frame, _: &[u8]| Err(stopped());
        assert_eq!(run(&Counting(4_096), &requests, &stop).expect_err("stopped").exit, Exit::Stopped);
    }
}
