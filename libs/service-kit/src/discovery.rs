//! Who the replicas of a service are: addresses that stand in the configuration, and all that a DNS name has, asked for again and again.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::{Dialer, InvalidAddress, MeshChannel, check_address};

/// As in gRPC's own naming: every address of the name is a replica.
const DNS_SCHEME: &str = "dns:///";
/// A name server that has not answered in this time is asked again with the next round.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where replicas of a service are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// One, at `host:port`.
    One(String),
    /// One at every address of the name in `dns:///host:port`.
    EachOf {
        /// The name.
        host: String,
        /// The port of each.
        port: u16,
    },
}

impl FromStr for PeerAddress {
    type Err = InvalidAddress;

    fn from_str(address: &str) -> Result<Self, InvalidAddress> {
        let Some(name) = address.strip_prefix(DNS_SCHEME) else {
            check_address(address)?;
            return Ok(Self::One(address.to_owned()));
        };
        check_address(name)?;
        let (host, port) = name
            .rsplit_once(':')
            .filter(|(host, _)| !host.contains(['/', '@', '[', ':']))
            .ok_or_else(|| InvalidAddress::new(address))?;
        Ok(Self::EachOf {
            host: host.to_owned(),
            port: port.parse().map_err(|_| InvalidAddress::new(address))?,
        })
    }
}

impl PeerAddress {
    /// The host, as it is written.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::One(address) => {
                let authority = address.strip_prefix("http://").unwrap_or(address);
                authority
                    .rsplit_once(':')
                    .map_or(authority, |(host, _)| host)
            }
            Self::EachOf { host, .. } => host,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => formatter.write_str(address),
            Self::EachOf { host, port } => write!(formatter, "{DNS_SCHEME}{host}:{port}"),
        }
    }
}

/// Channels to the replicas that a service has now. Clones see the same ones.
#[derive(Debug, Clone)]
pub struct Channels {
    now: watch::Receiver<Arc<[MeshChannel]>>,
    is_configured: bool,
    /// Resolves names for as long as anybody is interested.
    _following: Option<Arc<AbortOnDrop>>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for Channels {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<MeshChannel>> for Channels {
    /// Always these.
    fn from(channels: Vec<MeshChannel>) -> Self {
        Self {
            is_configured: !channels.is_empty(),
            now: watch::channel(channels.into()).1,
            _following: None,
        }
    }
}

impl From<watch::Receiver<Arc<[MeshChannel]>>> for Channels {
    /// As others find them.
    fn from(now: watch::Receiver<Arc<[MeshChannel]>>) -> Self {
        Self {
            now,
            is_configured: true,
            _following: None,
        }
    }
}

impl Channels {
    /// Channels to all of these, after a first look at what has a name; then a look in every interval. Must be called inside the runtime.
    ///
    /// # Errors
    /// [`InvalidAddress`] for one that no channel can be made for.
    pub async fn follow(
        peers: Vec<PeerAddress>,
        dialer: Dialer,
        interval: Duration,
    ) -> Result<Self, InvalidAddress> {
        Self::follow_with(Lookup, peers, dialer, interval).await
    }

    async fn follow_with(
        resolve: impl Resolve,
        peers: Vec<PeerAddress>,
        dialer: Dialer,
        interval: Duration,
    ) -> Result<Self, InvalidAddress> {
        let is_configured = !peers.is_empty();
        let has_names = peers
            .iter()
            .any(|peer| matches!(peer, PeerAddress::EachOf { .. }));
        let mut replicas = Replicas::new(resolve, peers, dialer)?;
        replicas.look().await;
        let (sender, now) = watch::channel(replicas.channels());
        let following = has_names.then(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(interval).await;
                    if replicas.look().await {
                        sender.send_replace(replicas.channels());
                    }
                }
            })
        });
        Ok(Self {
            now,
            is_configured,
            _following: following.map(AbortOnDrop).map(Arc::new),
        })
    }

    /// Those that there are now.
    #[must_use]
    pub fn now(&self) -> Arc<[MeshChannel]> {
        Arc::clone(&self.now.borrow())
    }

    /// Whether there are to be any: a name may have no address for a time.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.is_configured
    }
}

/// Asks for the addresses of a name.
trait Resolve: Send + Sync + 'static {
    fn addresses(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<BTreeSet<SocketAddr>>> + Send;
}

/// The system's resolver.
struct Lookup;

impl Resolve for Lookup {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<BTreeSet<SocketAddr>> {
        match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await? {
            Ok(found) => Ok(found.collect()),
            Err(error) if says_nobody(&error) => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a name server has answered that the name has no address, as those of services without a ready replica do; otherwise it could not
/// be asked. The error has no code that says so: these are glibc's words for EAI_NONAME and EAI_NODATA, and musl's.
fn says_nobody(error: &io::Error) -> bool {
    let message = error.to_string();
    let words = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ];
    words.iter().any(|words| message.contains(words))
}

/// The replicas behind each of the configured addresses.
struct Replicas<R> {
    resolve: R,
    dialer: Dialer,
    of_peers: Vec<(PeerAddress, Found)>,
}

/// What an address has; a name's channels by their addresses.
#[derive(Default)]
struct Found {
    channels: Vec<(Option<SocketAddr>, MeshChannel)>,
    fails: bool,
}

impl<R: Resolve> Replicas<R> {
    fn new(resolve: R, peers: Vec<PeerAddress>, dialer: Dialer) -> Result<Self, InvalidAddress> {
        let found = |peer: PeerAddress| {
            let mut found = Found::default();
            if let PeerAddress::One(address) = &peer {
                found.channels.push((None, dialer.channel(address)?));
            }
            Ok((peer, found))
        };
        Ok(Self {
            of_peers: peers.into_iter().map(found).collect::<Result<_, _>>()?,
            resolve,
            dialer,
        })
    }

    /// Two names may share an address: it is one replica.
    fn channels(&self) -> Arc<[MeshChannel]> {
        let mut seen = BTreeSet::new();
        let found = self.of_peers.iter().flat_map(|(_, found)| &found.channels);
        let distinct = found.filter(|(at, _)| at.is_none_or(|at| seen.insert(at)));
        distinct.map(|(_, channel)| channel.clone()).collect()
    }

    /// Resolves all names. Whether any has changed.
    async fn look(&mut self) -> bool {
        let (resolve, dialer) = (&self.resolve, &self.dialer);
        let looks = self.of_peers.iter_mut().map(|(peer, found)| async move {
            let PeerAddress::EachOf { host, port } = peer else {
                return false;
            };
            found.update(resolve.addresses(host, *port).await, host, dialer)
        });
        join_all(looks).await.contains(&true)
    }
}

impl Found {
    /// A name that cannot be asked for keeps the addresses that it had: who is gone does not answer, and who is not, does.
    fn update(
        &mut self,
        addresses: io::Result<BTreeSet<SocketAddr>>,
        host: &str,
        dialer: &Dialer,
    ) -> bool {
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(host, %error, "a name of replicas is not resolved");
                }
                return false;
            }
        };
        self.fails = false;
        let known: BTreeSet<SocketAddr> = self.channels.iter().filter_map(|(at, _)| *at).collect();
        if known == addresses {
            return false;
        }
        tracing::info!(host, ?addresses, "the replicas of a name have changed");
        self.channels
            .retain(|(at, _)| at.is_some_and(|at| addresses.contains(&at)));
        let new = addresses.difference(&known);
        self.channels
            .extend(new.map(|at| (Some(*at), dialer.channel_at(*at, host))));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// Gives one answer after the other, the last one for ever.
    struct Scripted(Mutex<VecDeque<Option<Vec<u8>>>>);

    impl Resolve for Scripted {
        async fn addresses(&self, _host: &str, port: u16) -> io::Result<BTreeSet<SocketAddr>> {
            let mut answers = self.0.lock().unwrap();
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.pop_front().unwrap(),
            };
            let answer = answer.ok_or_else(|| io::Error::other("no such name"))?;
            let at = |last: u8| SocketAddr::from(([10, 0, 0, last], port));
            Ok(answer.into_iter().map(at).collect())
        }
    }

    fn names(channels: &Channels) -> Vec<String> {
        let now = channels.now();
        now.iter()
            .map(|channel| channel.name().to_owned())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_come_and_go_with_the_addresses_of_their_name() {
        let script = [
            None,
            Some(vec![2, 1]),
            Some(vec![1, 2, 3]),
            None,
            Some(vec![3]),
        ];
        let peers = ["localhost:1", "dns:///replicas:7700"];
        let peers = peers.map(|peer| peer.parse().unwrap()).to_vec();
        let interval = Duration::from_secs(2);
        let channels = Channels::follow_with(
            Scripted(Mutex::new(script.into())),
            peers,
            Dialer::plaintext(),
            interval,
        )
        .await
        .unwrap();
        assert!(channels.is_configured());
        let at = |last: u8| format!("10.0.0.{last}:7700 (replicas)");
        // Between two looks.
        tokio::time::sleep(interval / 2).await;
        for expected in [&[][..], &[1, 2], &[1, 2, 3], &[1, 2, 3], &[3]] {
            let expected = expected.iter().copied().map(at);
            let expected: Vec<String> = ["localhost:1".to_owned()]
                .into_iter()
                .chain(expected)
                .collect();
            assert_eq!(names(&channels), expected);
            tokio::time::sleep(interval).await;
        }
    }

    #[tokio::test]
    async fn the_systems_resolver_is_asked() {
        let peers = vec!["dns:///localhost:7700".parse().unwrap()];
        let interval = Duration::from_secs(1);
        let channels = Channels::follow(peers, Dialer::plaintext(), interval).await;
        let names = names(&channels.unwrap());
        let local = "127.0.0.1:7700 (localhost)".to_owned();
        assert!(names.contains(&local), "{names:?}");
        let nobody = Lookup.addresses("nobody.invalid", 1).await;
        // Where there is no name server to ask, it fails.
        assert!(nobody.is_err() || nobody.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_of_two_names_is_one_replica() {
        let script = Scripted(Mutex::new([Some(vec![1])].into()));
        let peers = ["dns:///one:7700", "dns:///other:7700"];
        let peers = peers.map(|peer| peer.parse().unwrap()).to_vec();
        let interval = Duration::from_secs(1);
        let channels = Channels::follow_with(script, peers, Dialer::plaintext(), interval).await;
        assert_eq!(names(&channels.unwrap()), ["10.0.0.1:7700 (one)"]);
    }

    #[test]
    fn addresses_are_read_and_written() {
        for (written, host) in [
            ("localhost:1", "localhost"),
            ("http://encoder:7700", "encoder"),
            ("[::1]:7700", "[::1]"),
            ("dns:///encoder.search.svc:7700", "encoder.search.svc"),
        ] {
            let read: PeerAddress = written.parse().unwrap();
            assert_eq!((read.to_string().as_str(), read.host()), (written, host));
        }
        for wrong in [
            "dns:///http://encoder:7700",
            "dns:///[::1]:7700",
            "dns:///user@encoder:7700",
            "dns:///encoder",
            "dns:///:7700",
            "dns:///a:1/b",
            "dns://server/encoder:7700",
            "",
        ] {
            assert!(wrong.parse::<PeerAddress>().is_err(), "{wrong}");
        }
    }
}
