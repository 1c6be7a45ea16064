//! Which addresses a web source may be read from.
//!
//! A list of URLs is somebody else's text. Without a guard it could make a worker ask the metadata service of its
//! cloud, or a server behind its firewall, and write the answer into the results. So the address that is connected to
//! is checked, not the name: a name that resolves to something else a moment later (DNS rebinding) gains nothing.

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    vec,
};
use tower_service::Service;

/// What may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Addresses {
    /// Anything: the store is the operator's own choice.
    Any,
    /// Only addresses that the whole internet can reach.
    Public,
}

impl Addresses {
    /// Whether `address` may be connected to.
    pub(in crate::storage) fn allow(self, address: IpAddr) -> bool {
        self == Self::Any || is_public(address)
    }
}

/// A host all of whose addresses are kept from web sources.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{host}` is at a private address ({address}), which a URL must not lead to; if it is meant, give \
     --allow-private-addresses (TRAWL_ALLOW_PRIVATE_ADDRESSES=true) to the worker"
)]
pub(in crate::storage) struct PrivateAddress {
    /// As the URL names it.
    pub(in crate::storage) host: String,
    /// One of its addresses.
    pub(in crate::storage) address: IpAddr,
}

/// The system's resolver, less the addresses that are not allowed.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    addresses: Addresses,
}

impl Resolver {
    pub(super) fn new(addresses: Addresses) -> Self {
        Self { system: GaiResolver::new(), addresses }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.as_str().to_owned();
        let (resolving, addresses) = (self.system.call(name), self.addresses);
        Box::pin(async move {
            let found: Vec<_> = resolving.await?.collect();
            allowed(&host, found, addresses)
        })
    }
}

fn allowed(
    host: &str,
    found: Vec<SocketAddr>,
    addresses: Addresses,
) -> io::Result<vec::IntoIter<SocketAddr>> {
    let first = found.first().map(SocketAddr::ip);
    let kept: Vec<_> = found.into_iter().filter(|found| addresses.allow(found.ip())).collect();
    match first {
        Some(address) if kept.is_empty() => {
            Err(io::Error::other(PrivateAddress { host: host.to_owned(), address }))
        }
        _ => Ok(kept.into_iter()),
    }
}

/// Whether an address is one that the whole internet can reach.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Networks that are not the internet's, and how many of their first bits count.
const SPECIAL_V4: [(Ipv4Addr, u32); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),          // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),         // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),      // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),        // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32),   // what machines of Azure ask about themselves
    (Ipv4Addr::new(169, 254, 0, 0), 16),     // link-local; the same of the other clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),      // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),       // protocols
    (Ipv4Addr::new(192, 0, 2, 0), 24),       // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),     // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),     // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),      // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),    // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),     // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),        // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),        // reserved
    (Ipv4Addr::new(255, 255, 255, 255), 32), // broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within =
        |&(network, bits): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits;
    !SPECIAL_V4.iter().any(within)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded =
        |high: u16, low: u16| is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // Unspecified, loopback, mapped and compatible IPv4: the last is long out of use and leads nowhere good.
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low),
        [0, 0, 0, 0, 0, 0, _, _] => false,
        // NAT64, as networks without IPv4 have it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4.
        [0x2002, high, low, ..] => embedded(high, low),
        // Local NAT64, Teredo and the other special ones of 2001::/23, documentation (three), segment routing, discard.
        [0x64, 0xff9b, ..]
        | [0x2001, 0..=0x01ff | 0x0db8, ..]
        | [0x3fff, 0..=0x0fff, ..]
        | [0x5f00 | 0x0100, ..] => false,
        // What is given out to the internet is 2000::/3; unique local, link-local, site-local and multicast are not.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2002:c0a8:101::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!Addresses::Public.allow(address.parse().unwrap()), "{address} is not public");
            assert!(Addresses::Any.allow(address.parse().unwrap()));
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "168.63.129.17",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(Addresses::Public.allow(address.parse().unwrap()), "{address} is public");
        }
    }

    #[test]
    fn a_name_with_both_kinds_leads_to_the_public_ones_only() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let both = vec![at("127.0.0.1:80"), at("8.8.8.8:80"), at("[::1]:80")];
        let kept: Vec<_> = allowed("h", both, Addresses::Public).unwrap().collect();
        assert_eq!(kept, [at("8.8.8.8:80")]);
        let error = allowed("h.example", vec![at("10.0.0.1:80")], Addresses::Public).unwrap_err().to_string();
        assert!(error.contains("h.example") && error.contains("--allow-private-addresses"), "{error}");
        assert_eq!(allowed("h", vec![at("10.0.0.1:80")], Addresses::Any).unwrap().count(), 1);
    }
}
