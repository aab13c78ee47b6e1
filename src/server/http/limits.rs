//! How much of everything, with tables that do not grow: rates per key, connections per address, requests at a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use lru::LruCache;
use parking_lot::Mutex;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many a second.
    pub per_second: u32,
    /// How many at once after a pause.
    pub burst: u32,
}

/// Rates of many, of whom the longest unseen are forgotten.
pub struct Rates<K: Hash + Eq> {
    buckets: Mutex<LruCache<K, (Rate, Arc<DefaultDirectRateLimiter>)>>,
    most: usize,
}

impl<K: Hash + Eq> Rates<K> {
    /// For so many at a time.
    pub fn new(most: usize) -> Rates<K> {
        // Unbounded, so that nothing is allocated before it is needed; kept below `most` in here.
        Rates { buckets: Mutex::new(LruCache::unbounded()), most }
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long to wait for the next.
    pub fn take(&self, key: K, rate: Rate) -> Result<(), Duration> {
        let bucket = {
            let mut buckets = self.buckets.lock();
            match buckets.get(&key).filter(|(then, _)| *then == rate) {
                Some((_, bucket)) => Arc::clone(bucket),
                None => {
                    let some = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
                    let quota = Quota::per_second(some(rate.per_second)).allow_burst(some(rate.burst));
                    let bucket = Arc::new(RateLimiter::direct(quota));
                    buckets.push(key, (rate, Arc::clone(&bucket)));
                    while buckets.len() > self.most {
                        buckets.pop_lru();
                    }
                    bucket
                }
            }
        };
        bucket.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

/// By what an address is counted: an IPv6 host has a network of 64 bits to itself.
pub fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

/// Connections by address.
pub(super) struct Connections {
    most: usize,
    per_address: usize,
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One connection, until dropped.
pub(super) struct Connected {
    all: Arc<Connections>,
    address: IpAddr,
}

impl Connections {
    pub(super) fn new(most: usize, per_address: usize) -> Arc<Connections> {
        Arc::new(Connections { most, per_address, open: Mutex::default() })
    }

    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Connected> {
        let address = neighbourhood(ip);
        let mut open = self.open.lock();
        let (all, by_address) = &mut *open;
        let here = by_address.get(&address).copied().unwrap_or(0);
        if *all >= self.most || here >= self.per_address {
            return None;
        }
        *all += 1;
        by_address.insert(address, here + 1);
        Some(Connected { all: Arc::clone(self), address })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut open = self.all.open.lock();
        let (all, by_address) = &mut *open;
        *all = all.saturating_sub(1);
        match by_address.get_mut(&self.address) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept_per_key_and_tables_stay_small() {
        let rates = Rates::new(16);
        let rate = Rate { per_second: 1, burst: 3 };
        assert_eq!((0..5).filter(|_| rates.take(0u32, rate).is_ok()).count(), 3);
        assert!(rates.take(0, rate).unwrap_err() > Duration::ZERO);
        assert!(rates.take(1, rate).is_ok());
        for key in 0..10_000 {
            let _ = rates.take(key, rate);
        }
        assert_eq!(rates.buckets.lock().len(), 16);
        assert!(rates.take(9_999, Rate { per_second: 9, burst: 1 }).is_ok(), "a new rate counts at once");
    }

    #[test]
    fn connections_are_counted_by_address_and_given_back() {
        let all = Connections::new(3, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = all.admit(ip("2001:db8::1")).unwrap();
        let _second = all.admit(ip("2001:db8::ffff:2")).unwrap();
        assert!(all.admit(ip("2001:db8::3")).is_none(), "the same network");
        let _third = all.admit(ip("192.0.2.1")).unwrap();
        assert!(all.admit(ip("192.0.2.2")).is_none(), "full");
        drop(first);
        assert!(all.admit(ip("::ffff:192.0.2.1")).is_some());
        assert_eq!(all.open.lock().1.len(), 2);
    }
}
