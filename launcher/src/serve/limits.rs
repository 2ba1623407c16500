//! How often one address may ask: a bucket of tokens for each, in bounded memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered. When there are more, full buckets are forgotten; if there are none, newcomers share one.
const ADDRESSES_MAX: usize = 65_536;

/// Requests a second in the long run, and at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

/// One limit for many addresses.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

/// What is one party: an IPv6 customer has 2^64 addresses at least.
fn party(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
        },
        v4 => v4,
    }
}

impl Limiter {
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes a token, or says after how long there will be one.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Rate { per_second, burst } = self.rate;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = |&(left, at): &(f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * per_second).min(burst)
        };
        let mut of = party(address);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&of) {
            buckets.retain(|_, bucket| filled(bucket) < burst);
            if buckets.len() >= ADDRESSES_MAX {
                of = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let bucket = buckets.entry(of).or_insert((burst, now));
        let left = filled(bucket);
        if left >= 1.0 {
            *bucket = (left - 1.0, now);
            return Ok(());
        }
        *bucket = (left, now);
        Err(Duration::from_secs_f64((1.0 - left) / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_emptied_and_fills_again_for_each_party_alone() {
        let limiter = Limiter::new(Rate { per_second: 2.0, burst: 3.0 });
        let start = Instant::now();
        let (one, neighbour, other) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let take = |address: &str, ms| limiter.take(address.parse().unwrap(), start + Duration::from_millis(ms));
        assert_eq!((0..3).map(|_| take(one, 0)).collect::<Vec<_>>(), [Ok(()); 3]);
        assert_eq!(take(neighbour, 0), Err(Duration::from_millis(500)));
        assert_eq!(take(other, 0), Ok(()));
        assert_eq!((take(one, 500), take(one, 500)), (Ok(()), Err(Duration::from_millis(500))));
        assert_eq!((0..4).map(|_| take(one, 60_000).is_ok()).collect::<Vec<_>>(), [true, true, true, false]);
    }

    #[test]
    fn memory_is_bounded_and_strangers_share_one_bucket_when_it_is_full() {
        let limiter = Limiter::new(Rate { per_second: 0.001, burst: 1.0 });
        let now = Instant::now();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let taken = (0..ADDRESSES_MAX as u32 + 10).filter(|&n| limiter.take(address(n), now).is_ok()).count();
        assert_eq!(taken, ADDRESSES_MAX + 1);
        assert_eq!(limiter.buckets.lock().unwrap().len(), ADDRESSES_MAX + 1);
    }
}
